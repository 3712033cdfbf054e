"""What of the cluster engines take, apart from the workers and on their GPUs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_rl import make_job

from fettle.errors import FettleError
from fettle.recipe.cluster import ClusterSpec
from fettle.rl.placement import resources_apart, resources_shared

CPUS = ClusterSpec(cpus_per_worker=3)
GPUS = ClusterSpec(gpus_per_worker=1)
A, B = "a" * 56, "b" * 56  # nodes
WORKERS = [(A, ["0"]), (A, ["1"]), (B, ["4"]), (B, ["5"])]


@pytest.fixture
def job(tmp_path: Path, stage: Any) -> Any:
    """`job(rollout=, max_staleness=)`."""

    def make(rollout: dict[str, Any] | None = None, max_staleness: int = 0) -> Any:
        return make_job(tmp_path, stage("grpo", rollout=rollout or {}, max_staleness=max_staleness))

    return make


@pytest.mark.parametrize(
    ("cluster", "ahead", "taken"),
    [
        (CPUS, 0, {"num_cpus": 0, "num_gpus": 0}),  # it takes turns with the learner
        (CPUS, 1, {"num_cpus": 3, "num_gpus": 0}),
        (GPUS, 0, {"num_cpus": 0, "num_gpus": 2}),  # tensor_parallel: 2
    ],
)
def test_an_engine_takes_what_it_does_not_share_with_the_learner(job, cluster, ahead, taken) -> None:
    assert resources_apart(job({"tensor_parallel": 2, "engines": 2}, ahead), cluster) == [taken, taken]


@pytest.mark.parametrize("rollout", [{}, {"placement": "shared"}])
@pytest.mark.parametrize("cluster", [CPUS, GPUS])
def test_what_engines_take_is_what_the_job_says_it_takes_beside_its_workers(job, rollout, cluster) -> None:
    made = job({"engines": 2} | rollout)
    shares = bool(rollout) and cluster is GPUS
    found = resources_shared(made, WORKERS) if shares else resources_apart(made, cluster)
    assert made.beside(cluster) == (sum(one["num_cpus"] for one in found), sum(one["num_gpus"] for one in found))


@pytest.mark.parametrize(
    ("rollout", "where"),
    [
        ({"engines": 3}, [(A, "0"), (A, "1"), (B, "4")]),
        ({"engines": 2, "tensor_parallel": 2}, [(A, "0,1"), (B, "4,5")]),
    ],
)
def test_shared_engines_live_on_the_workers_gpus_and_reserve_none(job, rollout, where) -> None:
    found = resources_shared(job(rollout), WORKERS)
    assert [
        (one["scheduling_strategy"].node_id, one["runtime_env"]["env_vars"]["CUDA_VISIBLE_DEVICES"]) for one in found
    ] == where
    assert {one["num_gpus"] for one in found} == {0}


def test_an_engine_is_not_spread_over_nodes(job) -> None:
    with pytest.raises(FettleError, match="engine 0 on the GPUs of workers 0 to 2, which are on 2 nodes"):
        resources_shared(job({"tensor_parallel": 3}), WORKERS)
