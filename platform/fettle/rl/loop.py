"""The loop of reinforcement learning, whole: `Iterations.__iter__`. It knows no algorithm, no engine and no reward."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fettle.errors import FettleError
from fettle.rl.algorithms.algorithm import Algorithm
from fettle.rl.collect import Collected, Collector, collected, forget_rollouts, rollouts_file
from fettle.rl.job import RlJob
from fettle.rl.kl import FixedKl
from fettle.rl.learner import RlTask
from fettle.rl.rollout import Judged
from fettle.rl.stored import write_rollouts
from fettle.rl.sync import Sync
from fettle.train.checkpoint import Fence

STATE = "rl.json"
_POLL_S = 0.02


class Iterations:
    """The steps of an rl stage, over all workers: each asks for the next one when it has made the last.

    collector: on rank 0, None elsewhere. sync: given by `begin`, when the trainer is there. first: the iteration that
    comes next.
    """

    heldout: Sequence[Any] = ()

    def __init__(
        self,
        job: RlJob,
        fence: Fence,
        task: RlTask,
        algorithm: Algorithm,
        kl: FixedKl,
        collector: Collector | None,
        first: int,
    ) -> None:
        self.job, self.fence, self.task, self.algorithm, self.kl = job, fence, task, algorithm, kl
        self.collector, self.first = collector, first
        self.sync: Sync
        self.current: Collected  # what is being learned from
        self.seconds: dict[str, float] = {}  # of the iteration's phases
        self._last: dict[int, list[Judged]] = {}

    def __iter__(self) -> Iterator[list[Judged]]:
        for number in range(self.first, self.job.spec.iterations):
            self._ask(number)  # the engines take the policy, and make the rollouts of the iterations to come
            self.current = self._rollouts(number)  # rewarded, and none older than allowed
            batch = self._timed("reference", self.task.look, self.current.rollouts)
            judged = self.algorithm.judge(batch, self.kl.coef)
            self._keep(batch, number)
            self._began_learning = time.monotonic()
            yield from self._steps(judged, number)

    @property
    def reward(self) -> float | None:
        """The mean reward of the iteration's answers, before anything is whitened."""
        return float(self.current.told["reward"])

    def __len__(self) -> int:
        """Steps of the whole stage."""
        return self.job.spec.max_steps

    def __getitem__(self, number: int) -> list[Judged]:
        """What a step that was just handed out learned from; the first is 1."""
        return self._last[number]

    def begin(self, sync: Sync) -> None:
        """Called before the first step, with the trainer in its place."""
        self.sync = sync

    def learned(self) -> float:
        """Seconds since the iteration's first step began."""
        return time.monotonic() - self._began_learning

    def write(self, checkpoint: Path, number: int) -> None:
        """The state after a step that ends an iteration, into its checkpoint."""
        done = number // self.job.spec.steps_per_iteration
        (checkpoint / STATE).write_text(json.dumps({"iteration": done, "kl": self.kl.state()}), encoding="utf-8")

    def _ask(self, number: int) -> None:
        """Publishes the policy as the version of the iteration's number, and asks for what may be made by it."""
        began = time.monotonic()
        version = self.sync.publish(number)
        self.seconds = {"publish": time.monotonic() - began}
        if self.collector is None:
            return
        ahead = self.job.spec.max_staleness
        for wanted in range(number, min(number + ahead + 1, self.job.spec.iterations)):
            # Only a resumed run asks for what an earlier version should have made.
            is_late = number == self.first > 0 and wanted - ahead < number
            older = self.sync.stored(max(0, wanted - ahead)) if is_late else None
            self.collector.ask(wanted, older or version)
        forget_rollouts(self.job, number)

    def _rollouts(self, number: int) -> Collected:
        """An iteration's rollouts, from the file that rank 0 has written. Raises FettleError where one is too old."""
        if self.collector is not None:
            self.seconds["wait"] = self.collector.wait(number)
        # No collective: an iteration may take longer than its time-out.
        while not rollouts_file(self.job, number).is_file():
            self.fence.check()
            time.sleep(_POLL_S)
        found = collected(self.job, number)
        oldest = min(one.rollout.version for one in found.rollouts)
        if oldest < number - self.job.spec.max_staleness:
            raise FettleError(
                f"iteration {number} has rollouts of version {oldest} of the policy, and max_staleness is"
                f" {self.job.spec.max_staleness}: they are not learned from"
            )
        return found

    def _keep(self, batch: list[Judged], number: int) -> None:
        """What was worked out is written to the rollouts, for replays."""
        if self.collector is not None:
            told = self.current.told | {"kl_coef": self.kl.coef}
            write_rollouts(rollouts_file(self.job, number), batch, self.fence, **told)

    def _steps(self, judged: list[Judged], iteration: int) -> Iterator[list[Judged]]:
        first = iteration * self.job.spec.steps_per_iteration + 1
        for number, step in enumerate(steps_of(self.job, self.algorithm, judged, iteration), start=first):
            self._last = {number: step}
            yield step

    def _timed(self, phase: str, work: Any, *arguments: Any) -> Any:
        began = time.monotonic()
        found = work(*arguments)
        self.seconds[phase] = time.monotonic() - began
        return found


def steps_of(job: RlJob, algorithm: Algorithm, judged: Sequence[Judged], iteration: int) -> Iterator[list[Judged]]:
    """What each optimizer step of an iteration learns from: all of it, or parts of it in an order drawn anew each
    time."""
    size = job.spec.batch.sequences
    assert size is not None
    for epoch in range(job.spec.algorithm.epochs):
        order = np.random.default_rng([job.seed, iteration, epoch]).permutation(len(judged))
        for first in range(0, len(judged), size):
            yield algorithm.weigh([judged[place] for place in np.sort(order[first : first + size])])


def read_state(checkpoint: Path, kl: FixedKl) -> int:
    """The iteration that comes next after a checkpoint; the divergence's weight goes on."""
    told = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
    kl.restore(told["kl"])
    return int(told["iteration"])
