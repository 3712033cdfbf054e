"""Trains what a run has yet to train: stages one after the other on a worker group, branches beside each other."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from fettle.cluster import available_cpus, available_gpus, check_seen, ray_session
from fettle.pipeline.console import ProgressLine
from fettle.pipeline.planned import Planned
from fettle.pipeline.stage_graph import edges_of
from fettle.train.checkpoint import Fence
from fettle.train.group import progress_of, run_group
from fettle.train.job import Job, StageFunction
from fettle.train.note import leave_note

NOTICE_S = 25.0
"""How long a machine that is about to go usually stays: Kubernetes gives 30 s."""
_POLL_S = 0.2
Room = tuple[int, int]
"""CPUs and GPUs."""


@dataclass
class _Group:
    """Stages on a worker group. takes: the room it has been given; ended: set when it has; failure: what ended it, if
    it did not end well.

    Its thread is not asked: one whose `join` a signal interrupts counts as ended from then on (CPython 3.11), and
    SIGTERM would not wait for a checkpoint.
    """

    jobs: list[Job]
    takes: Room
    line: ProgressLine
    ended: threading.Event
    failure: list[BaseException] = field(default_factory=list)


def train(
    waiting: Sequence[Planned],
    jobs: Sequence[Job],
    functions: Mapping[str, StageFunction],
    fence: Fence,
    folder: Path,
    console: Console,
    when_done: Callable[[], None] | None = None,
) -> None:
    """Returns when all are done. functions: what trains a stage, by kind. when_done: is called when they are, while
    the workers end, which takes seconds. Raises as `check_seen` and `run_group`; stages beside the one that failed stop
    where they are, and go on from their checkpoints another time."""
    by_name = {job.name: job for job in jobs}
    left, running = list(waiting), list[_Group]()
    needs = _needs(waiting)

    def takes(stage: Planned) -> Room:
        """Its workers, and what it starts beside them."""
        cluster, beside = stage.cluster, by_name[stage.spec.name].beside(stage.cluster)
        return (
            cluster.fewest * cluster.cpus_per_worker + beside[0],
            cluster.fewest * cluster.gpus_per_worker + beside[1],
        )

    with ray_session():
        total = room()
        check_seen(fence.file, sorted({job.base for job in jobs if job.base.exists()}))
        try:
            while left or running:
                done = {stage.spec.name for stage in waiting if stage.is_done}
                while stages := _next_group(left, done, needs, takes, total):
                    taken = [one.takes for one in running]
                    most = _most([takes(stage) for stage in stages])
                    if taken and not _fits(total, [*taken, most]):
                        break
                    pairs = [(by_name[stage.spec.name], functions[stage.spec.kind]) for stage in stages]
                    running.append(_started(pairs, stages[0], most, fence, folder, console, beside=bool(taken)))
                    left = [stage for stage in left if stage not in stages]
                for one in running[:1]:
                    one.ended.wait(_POLL_S)
                if when_done is not None and not left and all(stage.is_done for stage in waiting):
                    when_done()
                    when_done = None
                running = _still_running(running)
        except KeyboardInterrupt as stopped:
            if str(stopped) == "SIGTERM":  # a notice, with some time left; who presses Ctrl-C wants an end
                _save_first(running, fence)
            raise
        finally:
            for one in running:
                one.line.close()


def room() -> Room:
    """Of the whole cluster."""
    return available_cpus(), available_gpus()


def _most(stages: Sequence[Room]) -> Room:
    """What stages take that are trained one after the other."""
    return max(cpus for cpus, _ in stages), max(gpus for _, gpus in stages)


def _next_group(
    left: Sequence[Planned],
    done: set[str],
    needs: Mapping[str, set[str]],
    takes: Callable[[Planned], Room],
    total: Room,
) -> list[Planned]:
    """The first stage whose parents are done, and after it those of the same cluster spec that its group goes on with,
    since a start takes half a minute. What does not go on from its last stage is left to a group beside it,
    where there is room for one. With ZeRO 3 each stage has a group of its own: its sharded weights stay."""
    ready = [place for place, stage in enumerate(left) if needs[stage.spec.name] <= done]
    if not ready:
        return []
    first = left[ready[0]]
    group = [first]
    for stage in left[ready[0] + 1 :] if first.cluster.zero < 3 else ():
        if stage.cluster != first.cluster:
            break
        known = done | {one.spec.name for one in group}
        goes_on = group[-1].spec.name in needs[stage.spec.name]
        if needs[stage.spec.name] <= known and (goes_on or not _fits(total, [takes(first), takes(stage)])):
            group.append(stage)
    return group


def _needs(waiting: Sequence[Planned]) -> dict[str, set[str]]:
    """Of each stage those that have to be done before it."""
    names = {stage.spec.name for stage in waiting}
    edges = edges_of(waiting)
    return {name: {edge.parent for edge in edges if edge.child == name and edge.parent in names} for name in names}


def _fits(total: Room, groups: Sequence[Room]) -> bool:
    return all(sum(of) <= most for of, most in zip(zip(*groups, strict=True), total, strict=True))


def _started(
    pairs: list[tuple[Job, StageFunction]],
    stage: Planned,
    takes: Room,
    fence: Fence,
    folder: Path,
    console: Console,
    *,
    beside: bool,
) -> _Group:
    cluster, jobs = stage.cluster, [job for job, _ in pairs]
    workers = f"{cluster.workers} worker{'s' if cluster.workers > 1 else ''}, ZeRO {cluster.zero}"
    where = " beside it" if beside else ""
    console.print(f"starting {workers}, {stage.precision}{where}: {', '.join(job.name for job in jobs)}")
    logs = folder / "logs" / jobs[0].name if beside else folder / "logs"
    failure: list[BaseException] = []
    ended = threading.Event()

    def work() -> None:
        try:
            run_group(pairs, cluster, fence=fence, out=folder, logs=logs)
        except BaseException as error:
            failure.append(error)
        finally:
            ended.set()

    # In a thread, because only the main one can be interrupted while it waits, and it has the progress to draw.
    group = _Group(jobs, takes, ProgressLine(console, jobs), ended, failure)
    threading.Thread(target=work, name=f"group-{jobs[0].name}", daemon=True).start()
    return group


def _still_running(groups: Sequence[_Group]) -> list[_Group]:
    """Draws how far they are; those that have not ended. Raises what ended one badly."""
    ended = [one for one in groups if one.ended.is_set()]
    for one in groups:
        one.line.update()
    for one in ended:
        one.line.close()
        if one.failure:
            raise one.failure[0]
    return [one for one in groups if one not in ended]


def _save_first(groups: Sequence[_Group], fence: Fence) -> None:
    """Has each group write a checkpoint, and waits for it as long as a notice usually leaves."""
    before = [progress_of(one.jobs) for one in groups]
    leave_note(fence)
    until = time.monotonic() + NOTICE_S
    for one, was in zip(groups, before, strict=True):
        while not one.ended.is_set() and progress_of(one.jobs) == was and time.monotonic() < until:
            time.sleep(_POLL_S)
