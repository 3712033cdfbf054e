"""A worker group's two sides, without starting one: what it runs, what it asks for, what its failures become."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from fettle.artifact import new_artifact
from fettle.errors import DoesNotFit, FettleError, StageFailed, UserError
from fettle.recipe.cluster import ClusterSpec
from fettle.train import group
from fettle.train.job import GroupMember, StageJob
from fettle.train.worker import run_member
from fettle.train.zero import needs_engine, zero_config


@pytest.fixture
def member(fence) -> GroupMember:
    return GroupMember(rank=0, world=1, cluster=ClusterSpec(), fence=fence)


@pytest.fixture
def has(monkeypatch):
    """`has(cpus, gpus)`: the cluster that is connected to."""

    def has(cpus: int, gpus: int = 0) -> None:
        monkeypatch.setattr(group, "available_cpus", lambda: cpus)
        monkeypatch.setattr(group, "available_gpus", lambda: gpus)
        monkeypatch.setattr(group, "num_places", lambda each, gpus_each: cpus // each)

    return has


def finish(job: StageJob, member: GroupMember) -> None:
    """A stage function that trains nothing."""
    with new_artifact(job.artifact, kind="model", name=job.name, fingerprint=job.fingerprint):
        pass


def test_a_members_stages_run_one_after_the_other(make_job, member):
    ran: list[str] = []

    def stage(job: StageJob, member: GroupMember) -> None:
        ran.append(job.name)
        finish(job, member)

    run_member([(make_job(name=name), stage) for name in ("one", "two", "three")], member, None)
    assert ran == ["one", "two", "three"]


def test_a_stage_that_is_done_is_skipped_so_that_a_second_attempt_goes_on(make_job, member):
    ran: list[str] = []

    def stage(job: StageJob, member: GroupMember) -> None:
        ran.append(job.name)
        if ran == ["one", "two"]:
            raise RuntimeError("the worker died")
        finish(job, member)

    stages = [(make_job(name=name), stage) for name in ("one", "two")]
    with pytest.raises(RuntimeError):
        run_member(stages, member, None)
    run_member(stages, member, None)
    assert ran == ["one", "two", "two"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"workers": 3}, "3 workers want 3 CPUs, and the cluster has 2\n  fix: at most workers: 2"),
        (
            {"workers": 2, "cpus_per_worker": 2},
            "2 workers want 4 CPUs, and the cluster has 2\n  fix: at most workers: 1",
        ),
        ({"gpus_per_worker": 1}, "1 workers want 1 GPUs, and the cluster has 0"),
    ],
)
def test_more_workers_than_the_cluster_has_room_for_do_not_fit(has, spec, message):
    has(cpus=2)
    with pytest.raises(DoesNotFit) as told:
        group.check_fits(ClusterSpec(**spec))
    assert str(told.value).startswith(f"cluster.workers: {message}")


def test_as_many_workers_as_there_is_room_for_fit(has):
    has(cpus=4, gpus=2)
    group.check_fits(ClusterSpec(workers=2, cpus_per_worker=2, gpus_per_worker=1))


def test_a_worker_is_on_one_node(has, monkeypatch):
    has(cpus=4)
    monkeypatch.setattr(group, "num_places", lambda each, gpus_each: 1)  # nodes of 3 CPUs and 1
    with pytest.raises(
        DoesNotFit, match="2 workers want 2 CPUs each, on one node, .* room for 1\n  fix: at most workers: 1"
    ):
        group.check_fits(ClusterSpec(workers=2, cpus_per_worker=2))


@pytest.mark.parametrize("wrap", ["cause", "dunder", "itself"])
def test_a_workers_own_error_comes_back_as_it_was_raised(tmp_path, wrap):
    ours = UserError("no such module", field="adapter.targets")
    told: BaseException = RuntimeError("Ray wraps it")
    if wrap == "cause":
        told = SimpleNamespace(cause=ours)  # type: ignore[assignment]
    elif wrap == "dunder":
        told.__cause__ = ours
    else:
        told = ours
    failure = RuntimeError("training failed")
    failure.worker_failures = {0: told}  # type: ignore[attr-defined]
    assert group._as_ours(failure, ["sft"], tmp_path) is ours


def test_any_other_failure_names_the_stages_its_last_line_and_the_log(tmp_path):
    told = group._as_ours(RuntimeError("Traceback …\nValueError: out of memory\n"), ["domain", "sft"], tmp_path)
    assert type(told) is StageFailed and told.exit_code == 1
    assert str(told) == f"stage domain or sft failed: ValueError: out of memory\n  log: {tmp_path}"


def test_a_failure_without_a_word_is_told_by_its_kind(tmp_path):
    told = group._as_ours(AssertionError(), ["sft"], tmp_path)
    assert isinstance(told, FettleError) and "AssertionError" in str(told)


def test_one_worker_without_zero_needs_no_engine():
    assert not needs_engine(ClusterSpec())
    assert needs_engine(ClusterSpec(zero=1)) and needs_engine(ClusterSpec(workers=2))


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_the_engine_gets_the_recipes_stage_and_no_precision_of_its_own(zero):
    config = zero_config(ClusterSpec(zero=zero))
    assert config["zero_optimization"]["stage"] == zero
    assert not {"bf16", "fp16", "optimizer"} & set(config)


def test_offload_brings_deepspeeds_own_optimizer():
    config = zero_config(ClusterSpec(zero=2, gpus_per_worker=1, offload=True))
    assert config["zero_optimization"]["offload_optimizer"]["device"] == "cpu"
    assert config["optimizer"]["type"] == "AdamW"


def test_workers_on_cpus_see_no_gpu_and_use_as_many_threads_as_they_asked_for():
    env = group.worker_env(ClusterSpec(cpus_per_worker=3))
    assert env["CUDA_VISIBLE_DEVICES"] == "" and env["OMP_NUM_THREADS"] == "3"
    assert "CUDA_VISIBLE_DEVICES" not in group.worker_env(ClusterSpec(gpus_per_worker=1))


def test_workers_on_cpus_take_memory_from_jemalloc_unless_the_user_preloads_another(monkeypatch):
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    assert Path(group.worker_env(ClusterSpec())["LD_PRELOAD"]).name == "libjemalloc.so"
    assert "LD_PRELOAD" not in group.worker_env(ClusterSpec(gpus_per_worker=1))

    monkeypatch.setenv("LD_PRELOAD", "/opt/mine.so")
    assert "LD_PRELOAD" not in group.worker_env(ClusterSpec())
