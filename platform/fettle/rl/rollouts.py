"""The rollout pool: vLLM engines in Ray actors that share an iteration's prompts, and outlive each other."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from fettle.engine import EngineOptions
from fettle.engine.sampling import Sampling
from fettle.errors import FettleError
from fettle.rl.engines import Answered, Asked, EngineActor, Version

_BATCHES_AN_ENGINE = 2  # so that one with short answers takes over from one with long ones
_MOST_DEATHS = 3


class RolloutPool:
    """Answers prompts by the version of the policy that was last synced.

    model: folder of the base. engines: how many. resources: Ray's options of each actor, such as num_cpus and num_gpus.
    start_timeout_s: for an engine to be there; sync_timeout_s: for all of them to take a version;
    answer_timeout_s: for one of them to answer. most_apart: nats by
    which an engine's log-probabilities may differ from a version's probe. logs: a folder.

    Raises FettleError where an engine does not start.
    """

    def __init__(
        self,
        model: Path,
        options: EngineOptions,
        *,
        engines: int,
        logs: Path,
        resources: dict[str, Any] | None = None,
        start_timeout_s: float = 600,
        sync_timeout_s: float = 300,
        answer_timeout_s: float = 3600,
        most_apart: float = math.inf,
    ) -> None:
        self.version = Version()
        self._most_apart, self._answer_timeout_s = most_apart, answer_timeout_s
        self._model, self._options, self._logs = model, options, logs
        self._resources = {"num_cpus": 0} | (resources or {})
        self._start_timeout_s, self._sync_timeout_s = start_timeout_s, sync_timeout_s
        self._actors: list[Any] = [self._made(number) for number in range(engines)]
        self._deaths = 0
        self.processes = [self._started(number) for number in range(engines)]

    def sync(self, version: Version) -> float:
        """Has all engines take a version; one that died is replaced. Gives the largest difference of any engine's
        log-probabilities from the version's probe, in nats.

        Raises FettleError, with the engine's own reason, where one refuses it, has not taken it in time, or answers by
        other weights.
        """
        self.version = version
        apart = 0.0
        taken = [actor.take.remote(version) for actor in self._actors]
        _, late = ray.wait(taken, num_returns=len(taken), timeout=self._sync_timeout_s)
        if late:
            numbers = ", ".join(str(taken.index(one)) for one in late)
            raise FettleError(
                f"engine {numbers} did not take version {version.number} of the policy within {self._sync_timeout_s:g}"
                f" s; see {self._logs}"
            )
        for number, one in enumerate(taken):
            try:
                apart = max(apart, self._close_enough(number, ray.get(one)))
            except RayActorError as error:
                self._replace(number, error)
            except RayTaskError as error:
                reason = f"engine {number} did not take version {version.number} of the policy: {error.cause}"
                raise FettleError(reason) from error
        return apart

    def answer(self, asked: Sequence[Asked], sampling: Sampling) -> list[Answered]:
        """The completions of each prompt, in the prompts' order. What an engine was asked that died is asked again,
        of one that has the same version.

        Raises FettleError where engines die one after the other, or with the engine's own reason.
        """
        found: dict[int, Answered] = {}
        batches = _BATCHES_AN_ENGINE * len(self._actors) if len(self._actors) > 1 else 1
        size = max(1, -(-len(asked) // batches))
        left = deque(range(first, min(first + size, len(asked))) for first in range(0, len(asked), size))
        idle = list(range(len(self._actors)))
        under_way: dict[Any, tuple[int, range]] = {}
        while left or under_way:
            while left and idle:
                number, places = idle.pop(), left.popleft()
                answer = self._actors[number].answer.remote([asked[place] for place in places], sampling)
                under_way[answer] = number, places
            ready, _ = ray.wait(list(under_way), num_returns=1, timeout=self._answer_timeout_s)
            if not ready:
                numbers = ", ".join(str(number) for number, _ in under_way.values())
                raise FettleError(
                    f"engine {numbers} has not answered within {self._answer_timeout_s:g} s; see {self._logs}"
                )
            (done,) = ready
            number, places = under_way.pop(done)
            try:
                found |= zip(places, ray.get(done), strict=True)
                self._deaths = 0
            except RayActorError as error:
                self._replace(number, error)
                left.appendleft(places)
            except RayTaskError as error:
                raise FettleError(f"engine {number} could not answer: {error.cause}") from error
            idle.append(number)
        return [found[place] for place in range(len(asked))]

    def close(self) -> None:
        """Ends all engines."""
        for actor in self._actors:
            ray.kill(actor)
        self._actors = []

    def _made(self, number: int) -> Any:
        kind: Any = ray.remote(EngineActor)
        log = self._logs / f"engine-{number}.log"
        return kind.options(**self._resources).remote(self._model, self._options, log)

    def _started(self, number: int) -> int:
        """The process of an engine that has taken the current version."""
        actor = self._actors[number]
        try:
            what = "start"
            process = ray.get(actor.process.remote(), timeout=self._start_timeout_s)
            what = f"take version {self.version.number} of the policy"
            self._close_enough(number, ray.get(actor.take.remote(self.version), timeout=self._sync_timeout_s))
        except (RayActorError, RayTaskError, GetTimeoutError) as error:
            reason = getattr(error, "cause", None) or str(error).splitlines()[0]
            log = self._logs / f"engine-{number}.log"
            raise FettleError(f"engine {number} did not {what}: {reason}; see {log}") from error
        return int(process)

    def _close_enough(self, number: int, apart: float) -> float:
        if apart > self._most_apart or math.isnan(apart):
            raise FettleError(
                f"engine {number} took version {self.version.number} of the policy, and on fixed prompts its"
                f" log-probabilities differ from the learner's by {apart:.3g} nats (at most {self._most_apart:g}):"
                " it does not answer by these weights"
            )
        return apart

    def _replace(self, number: int, error: RayActorError) -> None:
        self._deaths += 1
        if self._deaths > _MOST_DEATHS:
            raise FettleError(
                f"engines died {self._deaths} times without an answer in between; see {self._logs}"
            ) from error
        self._actors[number] = self._made(number)
        self.processes[number] = self._started(number)
