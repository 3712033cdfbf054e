"""cluster.yaml: as Ray's launcher takes it, with each of the providers it names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import ValidationError
from ray.autoscaler._private.util import prepare_config, validate_config  # what `ray up` does first

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "cluster.yaml").read_text(encoding="utf-8")


def cluster(provider: str) -> dict[str, Any]:
    """The file as it stands, or with the block of another provider in place of its own parts."""
    told = yaml.safe_load(TEXT)
    if provider == told["provider"]["type"]:
        return told
    for block in re.split(r"^# ---- .*\n(?:# ---- .*\n)*", TEXT, flags=re.MULTILINE)[1:]:
        other = yaml.safe_load(re.sub(r"^# ?", "", block, flags=re.MULTILINE))
        if other["provider"]["type"] == provider:
            return {key: value for key, value in (told | other).items() if value is not None}
    raise AssertionError(f"no block for {provider}")


@pytest.mark.parametrize("provider", ["aws", "gcp", "azure", "local"])
def test_rays_launcher_takes_it(provider: str):
    told = prepare_config(cluster(provider))
    validate_config(told)

    assert told["provider"]["type"] == provider


def test_a_slip_would_be_seen():
    with pytest.raises(ValidationError, match="'colour' was unexpected"):
        validate_config(prepare_config(cluster("aws") | {"colour": "red"}))


@pytest.mark.parametrize("provider", ["aws", "gcp", "azure"])
def test_a_cloud_has_a_head_without_work_and_workers_of_both_kinds(provider: str):
    kinds = cluster(provider)["available_node_types"]

    assert kinds["head"]["resources"] == {"CPU": 0}
    assert kinds["gpu"]["resources"]["GPU"] >= 1 and "GPU" not in kinds["cpu"]["resources"]
    assert kinds["gpu"]["worker_setup_commands"][0].endswith("setup.sh gpu")


@pytest.mark.parametrize("provider", ["aws", "local"])
def test_every_node_has_the_token_and_asks_for_it(provider: str):
    told = cluster(provider)

    assert told["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        start = told[key][-1]
        assert "RAY_AUTH_MODE=token" in start and "chmod 600 ~/.ray/auth_token" in start


def test_the_dashboard_listens_on_the_head_alone():
    assert "--dashboard-host=127.0.0.1" in cluster("aws")["head_start_ray_commands"][-1]
