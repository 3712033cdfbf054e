"""Stages trained without Ray, which takes half a minute to start: in this process, or in two that speak gloo."""

from __future__ import annotations

import dataclasses
import gc
import multiprocessing
import os
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from multiprocessing import connection, forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest
import torch

from fettle.artifact import read_artifact
from fettle.models.base import BUNDLED
from fettle.recipe.adapter import FULL
from fettle.recipe.cluster import ClusterSpec
from fettle.recipe.stages import TrainingStage
from fettle.rl.stage import rl
from fettle.train.checkpoint import Fence
from fettle.train.job import GroupMember, StageFunction, StageJob
from fettle.train.progress import curve
from fettle.train.stages.classify import classify
from fettle.train.stages.distill import distill
from fettle.train.stages.preference import preference
from fettle.train.stages.pretrain import pretrain
from fettle.train.stages.reward import reward
from fettle.train.stages.sft import sft
from fettle.train.trainer import StageTrainer
from fettle.train.worker import run_member

FUNCTIONS: dict[str, StageFunction] = {
    "pretrain": pretrain,
    "sft": sft,
    "preference": preference,
    "reward": reward,
    "classify": classify,
    "distill": distill,
    "rl": rl,
}


def stage_job(spec: TrainingStage, folder: Path, **told: Any) -> StageJob:
    """A stage of the tiny model below `folder`, whose encoded records are in `folder`/tokens, but for what is told."""
    name = spec.name
    plain: dict[str, Any] = {
        "name": name,
        "fingerprint": name,
        "spec": spec,
        "adapter": FULL,
        "seed": 3,
        "base": BUNDLED["tiny"],
        "from_adapter": None,
        "tokens": ((folder / "tokens",),),
        "streams": (),
        "weights": (1.0,),
        "heldout": (),
        "max_length": 128,
        "precision": "fp32",
        "folder": folder / name,
        "artifact": folder / f"{name}-artifact",
        "recipe": "",
        "data": (),
        "end_ids": (0,),
        "pad_id": 0,
    }
    return StageJob(**plain | told)


def fence_of(job: StageJob) -> Fence:
    """That of the test, which has written the file `epoch` beside the stage."""
    return Fence(job.folder.parent / "epoch", "test")


def train_alone(job: StageJob) -> StageJob:
    """The stage on one worker, in this process."""
    run_member(
        [(job, FUNCTIONS[job.spec.kind])], GroupMember(0, 1, ClusterSpec(workers=1, zero=0), fence_of(job)), None
    )
    keep_what_is_loaded()
    return job


@cache
def keep_what_is_loaded() -> None:
    """Garbage is looked for among younger objects alone from now on. Every stage looks twice, a third of its time in a
    process that has imported all of this (0.7 of 1.9 s, 2026-11)."""
    gc.collect()
    gc.freeze()


def train_together(cases: list[tuple[StageJob, int]], worker: Any = None) -> None:
    """Each case's stage on two workers at its ZeRO stage. worker: what changes more of a process than `work` does has
    one of its own; the pair that does the others' work stays."""
    if worker is not None:
        spawn(worker, cases)
    else:
        Pair.standing().work(cases)


def spawn(worker: Any, *args: Any, processes: int = 2) -> None:
    """`worker(rank, meeting, *args)` in so many processes, which `join` there."""
    with tempfile.TemporaryDirectory() as folder:
        told = (dict(os.environ), worker, f"{folder}/meeting", *args)
        fork_server()
        torch.multiprocessing.start_processes(_with_environment, told, nprocs=processes, start_method="forkserver")


def _with_environment(rank: int, environment: dict[str, str], worker: Any, *args: Any) -> None:
    """The server has the environment that there was when it started."""
    os.environ |= environment
    worker(rank, *args)


@cache
def fork_server() -> ForkServerContext:
    """What processes that train are forked from."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ready_to_train"])
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", str(Path(__file__).parent))
        forkserver.ensure_running()
    return context


class Pair:
    """Two processes that have joined and do what they are told until this one ends."""

    _standing: Pair | None = None

    @classmethod
    def standing(cls) -> Pair:
        """The one that there is, or a new one."""
        if cls._standing is None:
            cls._standing = cls()
        return cls._standing

    def __init__(self) -> None:
        context = fork_server()
        self._folder = tempfile.TemporaryDirectory()
        self._pipes, self._processes = [], []
        for rank in range(2):
            ours, theirs = context.Pipe()
            told = (rank, f"{self._folder.name}/meeting", theirs)
            process = context.Process(target=_do_as_told, args=told, daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def work(self, cases: list[tuple[StageJob, int]]) -> None:
        """Raises RuntimeError with what a process raised; both are gone then, for the other may wait for it."""
        for pipe in self._pipes:
            pipe.send(cases)
        waiting, problem = list(self._pipes), None
        while waiting and problem is None:
            for pipe in connection.wait(waiting):
                assert isinstance(pipe, connection.Connection)
                waiting.remove(pipe)
                try:
                    problem = problem or pipe.recv()
                except EOFError:
                    problem = problem or "a process of the pair is gone"
        if problem is not None:
            Pair._standing = None
            for process in self._processes:
                process.kill()
            raise RuntimeError(problem)


def _do_as_told(rank: int, meeting: str, pipe: connection.Connection) -> None:
    while True:
        try:
            cases = pipe.recv()
        except EOFError:
            return
        problem = None
        try:
            work(rank, meeting, cases)
        except BaseException:
            problem = traceback.format_exc()
        pipe.send(problem)


def join(rank: int, meeting: str, size: int = 2) -> None:
    """This process is one of `size` that speak gloo. They meet in a file: a free port may be another's by then."""
    if torch.distributed.is_initialized():
        return
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)}
    os.environ |= {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)


def work(rank: int, meeting: str, cases: list[tuple[StageJob, int]]) -> None:
    """What each of the two processes does."""
    join(rank, meeting)
    torch.rand(1 + rank)  # the workers' generators have gone different ways before
    for job, zero in cases:
        member = GroupMember(rank, 2, ClusterSpec(workers=2, zero=zero), fence_of(job))
        run_member([(job, FUNCTIONS[job.spec.kind])], member, None)
        keep_what_is_loaded()
        torch.distributed.barrier()


def again(job: StageJob, name: str) -> StageJob:
    """The same stage in another folder."""
    folder = job.folder.with_name(f"{job.name}-{name}")
    return dataclasses.replace(job, folder=folder, artifact=folder.with_name(f"{folder.name}-artifact"))


class _StoppedError(Exception):
    """A stage was stopped after a checkpoint."""


@contextmanager
def stopping_after(step: int) -> Iterator[None]:
    """Stages that are trained inside stop once their checkpoint of a step is complete."""
    save = StageTrainer._save_checkpoint

    def save_and_stop(self: StageTrainer, *args: Any) -> None:
        save(self, *args)
        if self.state.global_step == step:
            self.writer.wait()
            if self.batches.world > 1:
                torch.distributed.barrier()  # rank 0's has waited for the other's part, and that one for nobody
            raise _StoppedError

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(StageTrainer, "_save_checkpoint", save_and_stop)
        yield


def stop_alone(job: StageJob, step: int) -> None:
    """The stage on one worker, stopped after the checkpoint of a step."""
    with stopping_after(step), pytest.raises(_StoppedError):
        train_alone(job)


def cut_off(job: StageJob, step: int) -> StageJob:
    """The stage trained in another folder, interrupted after the checkpoint of `step` and then gone on with."""
    job = again(job, f"cut-{step}")
    stop_alone(job, step)
    return train_alone(job)


def interrupted_together(cases: list[tuple[StageJob, int]]) -> None:
    """Each case's stage on two workers that both stop after the checkpoint of step 2."""
    for case in cases:  # one pair of processes each: an engine that was stopped leaves things behind
        train_together([case], work_and_stop)


def work_and_stop(rank: int, meeting: str, cases: list[tuple[StageJob, int]]) -> None:
    """What each of two processes does that stop after the checkpoint of step 2."""
    with stopping_after(2), suppress(_StoppedError):
        work(rank, meeting, cases)
    os._exit(0)


def losses(job: StageJob) -> list[float]:
    """The training loss of every step, then what was measured on the held-out records before and after."""
    told = read_artifact(job.artifact).metrics
    pairs = [told["loss"][f"heldout_{when}"] for when in ("before", "after")]
    pairs += [measure[when] for measure in told["measures"].values() for when in ("before", "after")]
    return [*(row.loss for row in curve(job.progress)), *pairs]
