"""The rollout pool: vLLM engines in Ray actors that share an iteration's prompts, and outlive each other."""

from __future__ import annotations

import math
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path
from threading import Thread
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from fettle.engine import EngineOptions
from fettle.engine.channel import Channel, incoming, open_channel
from fettle.engine.sampling import Sampling
from fettle.errors import FettleError
from fettle.rl.engines import Answered, Asked, EngineActor, Version

_BATCHES_AN_ENGINE = 2  # so that one with short answers takes over from one with long ones
_MOST_DEATHS = 3


class RolloutPool:
    """Answers prompts by the version of the policy that was last synced.

    model: folder of the base. resources: of each engine, Ray's options of its actor, such as num_cpus and num_gpus.
    start_timeout_s: for an engine to be there; sync_timeout_s: for all of them to take a version;
    answer_timeout_s: for one of them to answer. most_apart: nats by
    which an engine's log-probabilities may differ from a version's probe. logs: a folder. gpu: index of this
    process's, which weights are broadcast from. adapters: name to folder of those that every engine holds beside the
    policy.

    Raises FettleError where an engine does not start.
    """

    def __init__(
        self,
        model: Path,
        options: EngineOptions,
        *,
        resources: Sequence[dict[str, Any]],
        logs: Path,
        start_timeout_s: float = 600,
        sync_timeout_s: float = 300,
        answer_timeout_s: float = 3600,
        most_apart: float = math.inf,
        gpu: int = 0,
        adapters: Mapping[str, Path] | None = None,
    ) -> None:
        self.version = Version()
        self._adapters = dict(adapters or {})
        self._most_apart, self._answer_timeout_s, self._gpu = most_apart, answer_timeout_s, gpu
        self._model, self._options, self._logs = model, options, logs
        self._resources = [{"num_cpus": 0} | one for one in resources]
        self._start_timeout_s, self._sync_timeout_s = start_timeout_s, sync_timeout_s
        self._channels: dict[int, Channel] = {}  # of engines that weights were broadcast to
        self._incoming: dict[str, Any] = {}  # what engines are told of it
        self._holds: dict[int, tuple[Version, float]] = {}  # what was broadcast, and how far apart it was found
        self._actors: list[Any] = [self._made(number) for number in range(len(resources))]
        self._deaths = 0
        self.processes = [self._started(number) for number in range(len(resources))]
        self._sleep()

    @contextmanager
    def awake(self) -> Iterator[RolloutPool]:
        """The engines hold their GPUs' memory; outside of it they leave it to the learner, where they share GPUs. An
        error within ends the stage, and the engines with it."""
        self._wake()
        yield self
        self._sleep()

    def sync(self, version: Version) -> float:
        """Has all engines take a version; one that died is replaced. Gives the largest difference of any engine's
        log-probabilities from the version's probe, in nats.

        Raises FettleError, with the engine's own reason, where one refuses it, has not taken it in time, or answers by
        other weights.
        """
        if version.weights is not None and version != self.version:
            self._incoming = incoming(version.weights)
        self.version = version
        apart = 0.0
        taken = {self._have_take(number): number for number in range(len(self._actors))}
        until = time.monotonic() + self._sync_timeout_s
        while taken:
            ready, late = ray.wait(list(taken), num_returns=1, timeout=max(0.0, until - time.monotonic()))
            if not ready:
                numbers = [taken[one] for one in late]
                raise FettleError(
                    f"engine {', '.join(map(str, numbers))} did not take version {version.number} of the policy within"
                    f" {self._sync_timeout_s:g} s{self._not_sent(numbers)}; see {self._logs}"
                )
            number = taken.pop(ready[0])
            try:
                apart = max(apart, self._close_enough(number, ray.get(ready[0])))
            except RayActorError as error:
                self._replace(number, error)
            except RayTaskError as error:
                reason = f"engine {number} did not take version {version.number} of the policy: {error.cause}"
                raise FettleError(f"{reason}{self._not_sent([number])}") from error
        return apart

    def answer(self, asked: Sequence[Asked], sampling: Sampling) -> list[Answered]:
        """The completions of each prompt, in the prompts' order. What an engine was asked that died is asked again,
        of one that has the same version.

        Raises FettleError where engines die one after the other, or with the engine's own reason.
        """
        found = dict(chain.from_iterable(self.answers(asked, sampling)))
        return [found[place] for place in range(len(asked))]

    def answers(
        self, asked: Sequence[Asked], sampling: Sampling, most: int = sys.maxsize
    ) -> Iterator[list[tuple[int, Answered]]]:
        """As `answer`, each with its prompt's place: those that come at once, as they come. most: prompts that an
        engine is asked at once."""
        batches = _BATCHES_AN_ENGINE * len(self._actors) if len(self._actors) > 1 else 1
        size = max(1, min(most, -(-len(asked) // batches)))
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
                found = list(zip(places, ray.get(done), strict=True))
                self._deaths = 0
            except RayActorError as error:
                self._replace(number, error)
                left.appendleft(places)
                found = []
            except RayTaskError as error:
                raise FettleError(f"engine {number} could not answer: {error.cause}") from error
            idle.append(number)
            yield found

    def close(self) -> None:
        """Ends all engines."""
        for channel in self._channels.values():
            channel.close()
        for actor in self._actors:
            ray.kill(actor)
        self._actors = []

    def _made(self, number: int) -> Any:
        kind: Any = ray.remote(EngineActor)
        log = self._logs / f"engine-{number}.log"
        return kind.options(**self._resources[number]).remote(self._model, self._options, log, self._adapters)

    def _have_take(self, number: int) -> Any:
        """Begins with an engine's taking the current version; gives Ray's reference to how far it is then apart."""
        actor, version = self._actors[number], self.version
        if version.weights is None:
            return actor.take.remote(version)
        held, apart = self._holds.pop(number, (None, 0.0))
        if held == version:
            self._holds[number] = version, apart
            return ray.put(apart)
        if number not in self._channels:
            host, ranks = ray.util.get_node_ip_address(), self._options.tensor_parallel
            self._channels[number] = open_channel(host, ranks, self._sync_timeout_s, self._gpu)
        channel = self._channels[number]
        # A thread that nobody waits for: the engine's answer tells when it has arrived.
        Thread(target=channel.send, args=(version.weights,), daemon=True).start()
        return actor.take.remote(replace(version, weights=None), (channel.meeting, self._incoming))

    def _not_sent(self, numbers: Sequence[int]) -> str:
        """Why weights did not leave the learner, where that is why engines did not take them."""
        told = {number: channel.failure for number, channel in self._channels.items() if number in numbers}
        found = [f"engine {number}'s were not sent ({error})" for number, error in told.items() if error is not None]
        return f"; {', '.join(found)}" if found else ""

    def _sleep(self) -> None:
        if self._options.sleeps:
            self._all([actor.sleep.remote() for actor in self._actors], "sleep")

    def _wake(self) -> None:
        if self._options.sleeps:
            self._all([actor.wake.remote() for actor in self._actors], "wake")

    def _all(self, answers: Sequence[Any], what: str) -> None:
        """Waits for all engines. One that died is found at the next sync."""
        for number, answer in enumerate(answers):
            try:
                ray.get(answer, timeout=self._sync_timeout_s)
            except RayActorError:
                continue
            except (RayTaskError, GetTimeoutError) as error:
                reason = getattr(error, "cause", None) or f"not within {self._sync_timeout_s:g} s"
                raise FettleError(f"engine {number} did not {what}: {reason}; see {self._logs}") from error

    def _started(self, number: int) -> int:
        """The process of an engine that has taken the current version."""
        actor = self._actors[number]
        try:
            what = "start"
            process = ray.get(actor.process.remote(), timeout=self._start_timeout_s)
            what = f"take version {self.version.number} of the policy"
            self._close_enough(number, ray.get(self._have_take(number), timeout=self._sync_timeout_s))
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
        if self.version.weights is not None:
            self._holds[number] = replace(self.version, weights=None), apart
        return apart

    def _replace(self, number: int, error: RayActorError) -> None:
        self._deaths += 1
        if self._deaths > _MOST_DEATHS:
            raise FettleError(
                f"engines died {self._deaths} times without an answer in between; see {self._logs}"
            ) from error
        self._holds.pop(number, None)
        if number in self._channels:
            self._channels.pop(number).close()
        self._actors[number] = self._made(number)
        self.processes[number] = self._started(number)
