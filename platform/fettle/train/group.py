"""The driver's side of a worker group: one TorchTrainer for consecutive stages of one cluster spec."""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError
from ray.train import FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
from ray.train.v2.api.exceptions import PreemptionError

from fettle.artifact import is_artifact
from fettle.cluster import available_cpus, available_gpus, num_places
from fettle.errors import DoesNotFit, FettleError, StageFailed
from fettle.recipe.cluster import ClusterSpec
from fettle.train.checkpoint import Fence
from fettle.train.job import Job, StageFunction

RETRIES = 1
_KEPT = "dirty_decay_ms:1000000000,muzzy_decay_ms:-1,oversize_threshold:33554432"
"""jemalloc's: nothing is given back at once but what is larger than 32 MiB, as glibc does."""


def run_group(
    stages: Sequence[tuple[Job, StageFunction]],
    cluster: ClusterSpec,
    *,
    fence: Fence,
    out: Path,
    logs: Path,
) -> None:
    """Trains the stages on one worker group; returns when all their artifacts are there. out: the run's folder.

    Raises DoesNotFit where the cluster is too small, the worker's own FettleError, or StageFailed.
    """
    jobs = [job for job, _ in stages]
    check_fits(cluster, jobs)
    while True:
        before = progress_of(jobs)
        failure = _failure(_trainer(stages, cluster, fence, out, logs))
        if failure is None:
            return
        # Ray Train has tried again by itself; where processes go on dying, so does the run while it gets anywhere.
        if not _died(failure) or progress_of(jobs) == before:
            raise _as_ours(failure, [job.name for job in jobs], logs)


def _trainer(
    stages: Sequence[tuple[Job, StageFunction]], cluster: ClusterSpec, fence: Fence, out: Path, logs: Path
) -> TorchTrainer:
    attempt = uuid.uuid4().hex[:4]  # one that goes on under the name of one that failed would fail with it
    return TorchTrainer(
        _on_a_worker,
        train_loop_config={"stages": list(stages), "cluster": cluster, "fence": fence, "logs": logs},
        torch_config=TorchConfig(backend="nccl" if cluster.gpus_per_worker else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=cluster.workers if cluster.min_workers is None else (cluster.fewest, cluster.workers),  # type: ignore[arg-type]  # V2 has it
            use_gpu=cluster.gpus_per_worker > 0,
            resources_per_worker={"CPU": cluster.cpus_per_worker, "GPU": cluster.gpus_per_worker},
        ),
        run_config=RunConfig(
            name=f"{fence.token}-{stages[0][0].name}-{attempt}",
            storage_path=str(out / "ray"),
            failure_config=FailureConfig(max_failures=RETRIES),
            worker_runtime_env={"env_vars": worker_env(cluster)},  # type: ignore[call-arg]  # V2 has it
        ),
    )


def _on_a_worker(config: dict[str, Any]) -> None:
    from fettle.train.worker import run_stages  # there alone: the driver needs nothing of what trains

    run_stages(config)


def progress_of(jobs: Sequence[Job]) -> list[int | None]:
    """Of each stage the newest checkpoint's step, None once it is done."""
    found: list[int | None] = []
    for job in jobs:
        steps = [int(folder.name.removeprefix("step-")) for folder in job.folder.glob("checkpoints/step-*")]
        found.append(None if is_artifact(job.artifact) else max(steps, default=0))
    return found


def _failure(trainer: TorchTrainer) -> BaseException | None:
    """What ended it, if it did not end well."""
    try:
        trainer.fit()
    except BaseException as error:
        return error
    return None


def _died(error: BaseException) -> bool:
    """Whether a worker ended that did not raise anything itself."""
    if isinstance(error, WorkerGroupError):
        return any(isinstance(one, WorkerHealthCheckFailedError) for one in error.worker_failures.values())
    return isinstance(error, PreemptionError)


def check_fits(cluster: ClusterSpec, jobs: Sequence[Job] = ()) -> None:
    """Raises DoesNotFit unless the connected cluster has the CPUs and GPUs the group asks for."""
    cpus, gpus = cluster.fewest * cluster.cpus_per_worker, cluster.fewest * cluster.gpus_per_worker
    for job in jobs:
        _check_beside(job, cluster, cpus, gpus)
    for what, wanted, there in (("CPUs", cpus, available_cpus()), ("GPUs", gpus, available_gpus())):
        if wanted > there:
            most, key = there // (wanted // cluster.fewest), f"{what.lower()}_per_worker"
            raise DoesNotFit(
                f"{cluster.fewest} workers want {wanted} {what}, and the cluster has {there}",
                field="cluster.workers",
                fix=f"at most workers: {most}" if most else f"fewer {key}, or a cluster that has such nodes",
            )
    places = num_places(cluster.cpus_per_worker, cluster.gpus_per_worker)
    if places is not None and places < cluster.fewest:
        each = f"{cluster.cpus_per_worker} CPUs" + (", a GPU" if cluster.gpus_per_worker else "")
        raise DoesNotFit(
            f"{cluster.fewest} workers want {each} each, on one node, and the cluster's nodes have room for {places}",
            field="cluster.workers",
            fix=f"at most workers: {places}" if places else "fewer cpus_per_worker, or larger nodes",
        )


def _check_beside(job: Job, cluster: ClusterSpec, cpus: int, gpus: int) -> None:
    """Raises DoesNotFit where what a stage starts beside its workers, such as engines, would never find room."""
    beside = job.beside(cluster)
    pairs = (("CPUs", cpus, beside[0], available_cpus()), ("GPUs", gpus, beside[1], available_gpus()))
    for what, own, more, there in pairs:
        if more and own + more > there:
            raise DoesNotFit(
                f"{own} {what} of workers and {more} of engines and reward models are more than the cluster's {there}",
                field=f"stages.{job.name}.rollout",
                fix="fewer engines or workers" + (", or max_staleness: 0" if what == "CPUs" else ""),
            )


def worker_env(cluster: ClusterSpec) -> dict[str, str]:
    """What has to stand in a worker's environment before it imports torch."""
    env = {"OMP_NUM_THREADS": str(cluster.cpus_per_worker), "TOKENIZERS_PARALLELISM": "false"}
    if cluster.gpus_per_worker == 0:
        env |= {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""} | _allocator()
    return env


def _allocator() -> dict[str, str]:
    """jemalloc, which Ray brings, in place of glibc's allocator, unless the user preloads one: glibc finds no use for
    much of what a pass has freed, and an adapter's passes take up to twice the memory they need. What is freed is
    kept for the next step, or left to the system when it wants it (docs/plan.md has figures)."""
    library = Path(ray.__file__).parent / "core" / "libjemalloc.so"
    if "LD_PRELOAD" in os.environ or not library.is_file():
        return {}
    return {"LD_PRELOAD": str(library), "MALLOC_CONF": _KEPT}


def _as_ours(error: BaseException, names: Sequence[str], logs: Path) -> FettleError:
    """A worker's own FettleError where there is one, else StageFailed naming the cause."""
    if isinstance(error, RayActorError):
        # Its placement group stays taken where there is no dashboard, which Ray's cleaner asks: no second try here.
        return StageFailed(
            f"Ray Train's controller of {' or '.join(names)} ended; the same command goes on from here\n  log: {logs}"
        )
    causes = list(getattr(error, "worker_failures", {}).values()) or [error]
    for cause in causes:
        inner = getattr(cause, "cause", None) or cause.__cause__ or cause
        for found in (cause, inner):
            if isinstance(found, FettleError):
                return found
    last = (str(causes[0]).strip() or repr(causes[0])).splitlines()[-1][:300]
    return StageFailed(f"stage {' or '.join(names)} failed: {last}\n  log: {logs}")
