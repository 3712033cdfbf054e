"""Rank 0's part of an iteration: the engines take the policy, answer its prompts, the answers are rewarded and written.

It runs in a thread of its own, ahead of the learner by as many iterations as the stage allows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fettle.data.record import Record
from fettle.engine.sampling import Sampling
from fettle.rl.engines import Answered, Asked, Version
from fettle.rl.job import RlJob
from fettle.rl.prompts import Prompt, Prompts, draw_seed
from fettle.rl.rewards.rewards import Rewards
from fettle.rl.rollout import Judged, Rollout
from fettle.rl.rollouts import RolloutPool
from fettle.rl.stored import read_rollouts, write_rollouts
from fettle.train.checkpoint import Fence

Play = Callable[[Sequence[Prompt], Callable[..., list[Answered]], Sampling, str], list[tuple[Rollout, float]]]
"""Episodes of an environment, of prompts, how engines answer, the sampling, and what they are drawn for."""


@dataclass(frozen=True)
class Collected:
    """rollouts: rewarded. told: seconds of each phase, the probe's difference, means of what is only watched."""

    rollouts: list[Judged]
    told: dict[str, Any]


class Collector:
    """Fills `job.folder`/rollouts, one file an iteration. play: of an environment, where there is one."""

    def __init__(
        self,
        job: RlJob,
        fence: Fence,
        pool: Callable[[], RolloutPool],
        prompts: Prompts,
        rewards: Rewards,
        judges: Rewards | None,
        play: Play | None = None,
    ) -> None:
        """pool: gives the engines, once they are there."""
        self._job, self._fence, self._pool, self._prompts = job, fence, pool, prompts
        self._rewards, self._judges, self._play = rewards, judges, play
        self._thread = ThreadPoolExecutor(1, "collect")
        self._under_way: dict[int, Future[None]] = {}

    def ask(self, iteration: int, version: Version) -> None:
        """Has an iteration's rollouts made by a version, unless they were asked for or are there already."""
        if iteration not in self._under_way:
            self._under_way[iteration] = self._thread.submit(self._make, iteration, version)

    def wait(self, iteration: int) -> float:
        """Until an iteration's file is there; gives the seconds that took. Raises what went wrong."""
        began = time.monotonic()
        self._under_way.pop(iteration).result()
        return time.monotonic() - began

    def measure(self, version: Version) -> float:
        """The mean reward of an answer to each held-out prompt, always drawn by the same seeds."""
        return self._thread.submit(self._measured, version).result()

    def close(self) -> None:
        """Waits for what is under way."""
        self._thread.shutdown(cancel_futures=True)

    def _make(self, iteration: int, version: Version) -> None:
        file = rollouts_file(self._job, iteration)
        if file.is_file():
            return
        asked = self._prompts.of(iteration, self._job.spec.rollout.prompts)
        seconds = {}
        began = time.monotonic()
        with self._pool().awake() as pool:
            probe = pool.sync(version)
            seconds["sync"], began = time.monotonic() - began, time.monotonic()
            drawn = self._drawn(asked, f"iteration {iteration}", self._job.spec.rollout.samples_per_prompt)
            seconds["generate"], began = time.monotonic() - began, time.monotonic()
        records = [one.record for one in asked]
        found = self._rewarded(drawn, records)
        judges = self._judged([one for one, _ in drawn], records)
        seconds["score"] = time.monotonic() - began
        texts = {one.rollout.prompt: _text_of(records[one.rollout.prompt]) for one in found}
        write_rollouts(
            file,
            found,
            self._fence,
            seconds=seconds,
            probe=probe,
            judges=judges,
            prompts=texts,
            reward=self._mean(found),
        )

    def _measured(self, version: Version) -> float:
        asked = list(self._prompts.heldout)
        with self._pool().awake() as pool:
            pool.sync(version)
            drawn = self._drawn(asked, "held out", 1)
        return self._mean(self._rewarded(drawn, [one.record for one in asked]))

    def _drawn(self, asked: Sequence[Prompt], what: str, num_samples: int) -> list[tuple[Rollout, float]]:
        """The rollouts of some prompts, and what an environment gave each of them."""
        spec = self._job.spec.rollout
        sampling = Sampling(
            max_new_tokens=spec.max_new_tokens,
            temperature=spec.temperature,
            top_p=spec.top_p,
            num_samples=num_samples,
            stop_token_ids=self._job.end_ids,
        )
        if self._play is not None:
            return self._play(asked, self._pool().answer, sampling, what)
        told = [
            Asked(tuple(one.ids.tolist()), draw_seed(self._job.seed, what, place)) for place, one in enumerate(asked)
        ]
        answers = self._pool().answer(told, sampling)
        return [(one, 0.0) for place, answer in enumerate(answers) for one in _rollouts(place, asked[place], answer)]

    def _rewarded(self, drawn: Sequence[tuple[Rollout, float]], records: Sequence[Record]) -> list[Judged]:
        found = self._rewards.judged([one for one, _ in drawn], records)
        if self._play is None:
            return found
        return [
            Judged(one.rollout, {**one.parts, "environment": given}, one.reward + given)
            for one, (_, given) in zip(found, drawn, strict=True)
        ]

    def _mean(self, found: Sequence[Judged]) -> float:
        """The mean reward, an environment's too, before anything is whitened."""
        given = float(np.mean([one.parts.get("environment", 0.0) for one in found])) if self._play is not None else 0.0
        return self._rewards.plain_mean([one.parts for one in found]) + given

    def _judged(self, rollouts: Sequence[Rollout], records: Sequence[Record]) -> dict[str, float]:
        if self._judges is None:
            return {}
        parts = self._judges.score(rollouts, records)
        return {name: float(np.mean([one[name] for one in parts])) for name in parts[0]}


def rollouts_file(job: RlJob, iteration: int) -> Path:
    """Where an iteration's rollouts lie."""
    return job.folder / "rollouts" / f"{iteration:08d}.npz"


def collected(job: RlJob, iteration: int) -> Collected:
    """An iteration's rollouts, whose file is there."""
    return Collected(*read_rollouts(rollouts_file(job, iteration)))


def forget_rollouts(job: RlJob, newest: int) -> None:
    """Removes the files of iterations that are neither to be replayed nor needed from the last checkpoint on."""
    spec = job.spec
    since = job.save_every // spec.steps_per_iteration * (spec.checkpoint.keep + 1)
    for file in (job.folder / "rollouts").glob("[0-9]*.npz"):
        if int(file.stem) <= newest - max(spec.recorder.batches, since):
            file.unlink()


def _rollouts(place: int, asked: Prompt, answer: Answered) -> list[Rollout]:
    return [
        Rollout(
            prompt=place,
            sample=number,
            prompt_ids=asked.ids,
            output_ids=np.array(one.token_ids, np.int32),
            logprobs=np.array(one.logprobs, np.float32),
            mask=np.ones(len(one.token_ids), dtype=bool),
            version=answer.version,
            finish="length" if one.finish_reason == "length" else "stop",
            text=one.text,
        )
        for number, one in enumerate(answer.completions)
    ]


def _text_of(record: Record) -> str:
    assert record.prompt is not None
    return "".join(record.prompt.plain) or record.prompt.turns[-1].content
