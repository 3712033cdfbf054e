"""`kind: rl` on two workers, of which the first has the engine: the figures of one worker. Two-process gloo and Ray."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from fettle.artifact import read_artifact
from fettle.cluster import ray_session
from fettle.rl.job import RlJob
from gloo import again, join, spawn, train_alone, train_together, work
from rl_jobs import LORA, MakeJob, make_rl_jobs, rows_of

pytest.importorskip("vllm")
pytestmark = pytest.mark.timeout(600)
TOLERANCE = 1e-4
RUNS: dict[str, dict[str, Any]] = {
    "full": {"rollout": {"max_new_tokens": 24}},
    "ppo lora": {"algorithm": "ppo", "adapter": LORA, "lr": 1e-3, "batch": {"sequences": 8}},
}
# The engine is started anew for each: a case is there because another part of the loop meets sharded weights in it.
CASES = {"full zero-3": 3, "ppo lora zero-2": 2}


@pytest.fixture(scope="module")
def make_job(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeJob]:
    """`make_job(name, …)`, in a cluster of their own."""
    with ray_session(num_cpus=2):
        yield make_rl_jobs(root, tmp_path_factory.mktemp("rl"))


@pytest.fixture(scope="module")
def alone(make_job: MakeJob) -> dict[str, RlJob]:
    """One worker, without DeepSpeed."""
    return {name: train_alone(make_job(name.replace(" ", "-"), **keys)) for name, keys in RUNS.items()}


def work_with_ray(rank: int, meeting: str, cases: list[tuple[RlJob, int]]) -> None:
    """What each of the two processes does: the first one joins the cluster in which its engines live."""
    if rank:
        return work(rank, meeting, cases)
    with ray_session():
        work(rank, meeting, cases)


def work_alone(rank: int, meeting: str, job: RlJob) -> None:
    """What the only worker of a group of one does, as Ray Train starts it."""
    join(rank, meeting, size=1)
    with ray_session():
        train_alone(job)


@pytest.fixture(scope="module")
def together(alone: dict[str, RlJob]) -> dict[str, RlJob]:
    """Two workers, at ZeRO 2 and 3."""
    jobs = {case: (again(alone[case.rpartition(" ")[0]], f"zero-{zero}"), zero) for case, zero in CASES.items()}
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
        train_together(list(jobs.values()), work_with_ray)
    return {case: job for case, (job, _) in jobs.items()}


def figures(job: RlJob, iteration: int) -> list[float]:
    row = rows_of(job)[iteration]
    found = [row.reward, row.entropy, row.loss, row.grad_norm, row.kl["answer"], row.value_loss or 0.0]
    return [*found, row.lengths["mean"], row.repetition]


@pytest.mark.parametrize("case", CASES)
def test_two_workers_begin_with_the_figures_of_one(
    alone: dict[str, RlJob], together: dict[str, RlJob], case: str
) -> None:
    one = alone[case.rpartition(" ")[0]]

    assert figures(together[case], 0) == pytest.approx(figures(one, 0), rel=TOLERANCE, abs=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_two_workers_go_on_with_the_figures_of_one(
    alone: dict[str, RlJob], together: dict[str, RlJob], case: str
) -> None:
    one = alone[case.rpartition(" ")[0]]

    # Adam's first steps are ±lr even where a gradient is only noise, so that the runs come apart a little.
    for iteration in (1, 2):
        assert figures(together[case], iteration) == pytest.approx(figures(one, iteration), rel=0.02, abs=5e-3)


@pytest.mark.parametrize("case", CASES)
def test_the_engine_of_two_workers_answers_by_their_weights(together: dict[str, RlJob], case: str) -> None:
    rows = rows_of(together[case])

    assert max(row.gap["max"] for row in rows) < 1e-4
    assert [row.oldest_version for row in rows] == [0, 1, 2]


@pytest.mark.parametrize("case", CASES)
def test_two_workers_make_the_artifact_of_one(alone: dict[str, RlJob], together: dict[str, RlJob], case: str) -> None:
    ours, theirs = (
        read_artifact(job.artifact, verify=True) for job in (together[case], alone[case.rpartition(" ")[0]])
    )

    assert (ours.kind, set(ours.metrics)) == (theirs.kind, set(theirs.metrics))
    assert ours.metrics["reward"]["heldout_before"] == theirs.metrics["reward"]["heldout_before"]


def test_a_group_of_one_has_the_rows_of_a_worker_without_a_group(alone: dict[str, RlJob]) -> None:
    job = again(alone["ppo lora"], "group-of-one")

    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
        spawn(work_alone, job, processes=1)

    assert figures(job, 2) == pytest.approx(figures(alone["ppo lora"], 2), rel=TOLERANCE, abs=1e-6)
