"""Four nodes of one Ray cluster, real raylets on this machine: a head without CPUs, where the driver is, and three with
one CPU each. Training, rollouts and serving over them, and nodes that are killed meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from ray.cluster_utils import Cluster

from fettle.artifact import read_artifact
from fettle.cluster import OUR_CLUSTER_ENV, check_seen, ray_session
from fettle.data.encode import encode
from fettle.data.formats import read_file
from fettle.data.tokens import write_tokens
from fettle.errors import DoesNotFit, UserError
from fettle.models.base import BUNDLED, load_tokenizer
from fettle.pipeline.prepare import end_ids
from fettle.recipe import SftStage
from fettle.recipe.cluster import ClusterSpec
from fettle.rl.rollouts import RolloutPool
from fettle.serving.app import serve
from fettle.serving.port import free_port
from fettle.train.group import check_fits, run_group
from fettle.train.job import StageJob
from fettle.train.stages.sft import sft
from gloo import again, fence_of, stage_job, train_alone, train_together
from live import COMPLETE
from rl_jobs import make_rl_jobs, rows_of

pytest.importorskip("vllm")
pytestmark = pytest.mark.timeout(600)
_STORE = 100 << 20  # bytes of a node's object store
_DEAD_AFTER_S = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 1000,
    "health_check_failure_threshold": 3,
}


@pytest.fixture(scope="module")
def nodes() -> Iterator[Cluster]:
    """The cluster, which RAY_ADDRESS names."""
    with pytest.MonkeyPatch.context() as patched:
        for name, value in OUR_CLUSTER_ENV.items():
            patched.setenv(name, value)
        plain: dict[str, Any] = {"object_store_memory": _STORE, "include_dashboard": False}
        cluster = Cluster(True, head_node_args={"num_cpus": 0, "_system_config": _DEAD_AFTER_S, **plain})
        try:
            for _ in range(3):
                cluster.add_node(num_cpus=1, **plain)
            patched.setenv("RAY_ADDRESS", cluster.address)
            yield cluster
        finally:
            cluster.shutdown()


def raylet(node: Any) -> psutil.Process:
    """Of a node the process whose children its actors are."""
    return psutil.Process(node.all_processes["raylet"][0].process.pid)


def actors(node: Any, called: str) -> list[psutil.Process]:
    """Those on a node whose name, which Ray makes of class and method, begins so."""
    found = []
    for process in raylet(node).children(recursive=True):
        try:
            found += [process] if " ".join(process.cmdline()).startswith(called) else []
        except psutil.NoSuchProcess:
            continue
    return found


def with_actors(cluster: Cluster, called: str) -> list[Any]:
    """The nodes that have such actors."""
    return [node for node in [cluster.head_node, *cluster.worker_nodes] if actors(node, called)]


def kill(cluster: Cluster, node: Any) -> None:
    """As a machine without power: everything at once."""
    below = raylet(node).children(recursive=True)
    raylet(node).kill()
    for process in below:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    cluster.remove_node(node, allow_graceful=False)


def wait_until(true: Callable[[], object], timeout_s: float = 120) -> None:
    until = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < until, f"nothing happened in {timeout_s} s"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def job(root: Path, tmp_path_factory: pytest.TempPathFactory) -> StageJob:
    """Twelve steps of the tiny model on Northline's conversations; its folder is on storage that all nodes see."""
    folder = tmp_path_factory.mktemp("nodes")
    tokenizer = load_tokenizer(BUNDLED["tiny"])
    records = list(read_file(root / "recipes" / "northline" / "chat.jsonl")[1])[:300]
    write_tokens(folder / "tokens", encode(records, tokenizer, max_length=128))
    (folder / "epoch").write_text("test")
    told: dict[str, Any] = {"max_steps": 12, "batch": {"sequences": 32}, "lr": 1e-3, "checkpoint": {"every": 2}}
    spec = SftStage(name="two", kind="sft", data="chat.jsonl", **told)
    return stage_job(spec, folder, end_ids=end_ids(tokenizer))


def test_what_the_nodes_cannot_do_is_told_before_anything_starts(nodes: Cluster, job: StageJob) -> None:
    with ray_session():
        with pytest.raises(DoesNotFit, match="1 workers want 2 CPUs each, on one node, .* room for 0"):
            check_fits(ClusterSpec(workers=1, cpus_per_worker=2), [job])
        check_seen(fence_of(job).file, [job.base])
        with pytest.raises(UserError, match="the node .* does not see .*nowhere, which workers read"):
            check_seen(fence_of(job).file, [job.base, job.folder / "nowhere"])


def test_a_node_killed_while_two_train_is_replaced_and_the_artifact_is_that_of_one_machine(
    nodes: Cluster, job: StageJob
) -> None:
    alone = again(job, "one-machine")
    train_together([(alone, 2)])
    trained_on: list[Any] = []

    def lose_one() -> None:
        wait_until(lambda: list(job.folder.glob("checkpoints/step-*")))
        trained_on.extend(with_actors(nodes, "ray::RayTrainWorker"))
        kill(nodes, trained_on[0])

    killer = threading.Thread(target=lose_one)
    killer.start()
    with ray_session():
        cluster = ClusterSpec(workers=2, zero=2)
        run_group([(job, sft)], cluster, fence=fence_of(job), out=job.folder.parent, logs=job.folder / "logs")
    killer.join()

    assert len(trained_on) == 2 and nodes.head_node not in trained_on
    assert read_artifact(job.artifact).digest == read_artifact(alone.artifact).digest


def test_answers_are_made_on_another_node_than_they_are_learned_from_on(
    nodes: Cluster, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_on: list[Any] = []
    close = RolloutPool.close

    def look_and_close(self: RolloutPool) -> None:
        made_on.extend(with_actors(nodes, "ray::EngineActor"))
        close(self)

    monkeypatch.setattr(RolloutPool, "close", look_and_close)
    # Full weights travel from the learner's memory to the engine, over the network.
    job = make_rl_jobs(root, tmp_path)("apart", max_staleness=1, rollout={"transfer": "broadcast"})

    with ray_session():
        train_alone(job)

    assert len(made_on) == 1 and made_on[0] != nodes.head_node
    assert [row.oldest_version for row in rows_of(job)] == [0, 0, 1]
    assert rows_of(job)[0].gap["max"] < 1e-4


def test_two_nodes_answer_and_when_one_is_killed_the_other_goes_on(nodes: Cluster, tiny: Path) -> None:
    port = free_port()
    with serve(tiny, port=port, replicas=2) as endpoint:
        replicas = with_actors(nodes, "ray::ServeReplica:fettle:model")
        busy = [actors(node, "ray::ServeReplica:fettle:model")[0] for node in replicas]
        before = [sum(one.cpu_times()[:2]) for one in busy]
        statuses = asked(endpoint.url, 40)
        spent = [sum(one.cpu_times()[:2]) - was for one, was in zip(busy, before, strict=True)]

        kill(nodes, replicas[0])
        afterwards = asked(endpoint.url, 10)

    assert len(replicas) == 2 and nodes.head_node not in replicas
    assert statuses == [200] * 40
    assert min(spent) > 0.2 * sum(spent)  # both have answered
    assert afterwards == [200] * 10


def asked(url: str, times: int) -> list[int]:
    """The statuses of so many requests, four at a time."""

    def one(number: int) -> int:
        body = {"prompt": f"Train {number} leaves", "max_tokens": 24, "ignore_eos": True}
        return requests.post(f"{url}{COMPLETE}", json=body, timeout=120).status_code

    with ThreadPoolExecutor(4) as four:
        return list(four.map(one, range(times)))
