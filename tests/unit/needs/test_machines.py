"""What a plan is for, as users name it."""

from __future__ import annotations

from pathlib import Path

import pytest

from fettle.errors import UserError
from fettle.needs.machines import machines_in, machines_of, this_machine

CLUSTER = """
cluster_name: night
provider: {type: aws, region: us-west-2}
max_workers: 3
head_node_type: head
available_node_types:
  head: {resources: {CPU: 8}, node_config: {InstanceType: m6i.2xlarge}}
  gpus: {max_workers: 2, resources: {CPU: 96, memory: 1099511627776}, node_config: {InstanceType: p4d.24xlarge}}
"""


def test_so_many_gpus_by_name_are_on_machines_of_eight() -> None:
    found = machines_of("16xh100")

    assert (found.told, found.num_gpus, found.nodes[0].count, found.nodes[0].gpus) == ("16xH100", 16, 2, 8)


def test_a_name_alone_is_one() -> None:
    assert machines_of("A100-80GB").num_gpus == 1


@pytest.mark.parametrize("gpus", ["8", "x", "0xH100", "8 of H100", "8xH1000"])
def test_what_is_no_count_and_name_is_refused_with_the_names_there_are(gpus: str) -> None:
    with pytest.raises(UserError, match="H100") as caught:
        machines_of(gpus)
    assert caught.value.field == "--gpus"


def test_a_cluster_file_tells_its_nodes_at_their_most(tmp_path: Path) -> None:
    (tmp_path / "cluster.yaml").write_text(CLUSTER)

    found = machines_in(tmp_path / "cluster.yaml")

    assert {node.name: (node.count, node.gpus) for node in found.nodes} == {"gpus": (2, 8), "head": (2, 0)}
    assert found.gpu is not None and found.gpu.name == "A100"
    assert found.num_cpus == 2 * 96 + 2 * 8


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [", "not valid YAML"),
        ("name: smoke", "no provider"),
        ("provider: {type: local}", "available_node_types"),
        (CLUSTER.replace("head_node_type: head", "head_node_type: haed"), "did you mean 'head'"),
        (
            CLUSTER.replace("{resources: {CPU: 8}, node_config: {InstanceType: m6i.2xlarge}}", "{}"),
            "what such a machine",
        ),
        (CLUSTER.replace("p4d.24xlarge", "zz.large").replace("CPU: 96", "CPU: 96, GPU: 8"), "unknown kind"),
    ],
)
def test_a_file_that_tells_no_machines_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "cluster.yaml").write_text(text)

    with pytest.raises(UserError, match=said):
        machines_in(tmp_path / "cluster.yaml")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        machines_in(tmp_path / "none.yaml")


def test_this_machine_has_cores_memory_and_disk() -> None:
    node = this_machine(Path("runs/new")).nodes[0]

    assert node.cpus and node.memory and node.disk
