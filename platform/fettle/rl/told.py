"""What an rl stage tells of itself: a row for every iteration, the held-out reward before and after, its alarms."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from transformers import TrainerCallback

from fettle.artifact import replace_text
from fettle.errors import FettleError
from fettle.rl.alarms import alarms, check_gap
from fettle.rl.loop import Iterations
from fettle.rl.recorder import IterationRow, Recorder, Sample, read_rows, summary
from fettle.rl.rewards.builtins import repeated_share
from fettle.rl.rollout import Judged


class RlReport(TrainerCallback):
    """Follows the steps of `iterations`. Every worker has one, and all work out the figures together; rank 0 writes."""

    def __init__(self, iterations: Iterations, *, write: bool) -> None:
        self.iterations, self.job, self._write = iterations, iterations.job, write
        self._before_file = self.job.folder / "reward_before.json"
        self._before: float | None = None
        self._after: float | None = None
        self._began = 0.0
        self._grad_norms: list[float] = []
        if write:
            self._recorder = Recorder(self.job.iterations_file)
            rows = read_rows(self.job.iterations_file)
            self._rows = [row for row in rows if row.iteration < iterations.first]

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measures the held-out reward of the policy that the stage received."""
        if self._before_file.is_file():
            self._before = json.loads(self._before_file.read_text(encoding="utf-8"))
        else:
            self._before = self._heldout(0)
            if self._write:
                self._before_file.parent.mkdir(parents=True, exist_ok=True)
                replace_text(self._before_file, json.dumps(self._before))
        self._began = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """After each step; after the last one of an iteration its figures are worked out."""
        if "loss" not in logs:
            return
        self._grad_norms.append(float(logs.get("grad_norm") or 0.0))
        per_iteration = self.job.spec.steps_per_iteration
        if state.global_step % per_iteration:
            return
        self._end_iteration(state.global_step // per_iteration - 1)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measures the held-out reward of the policy that the stage made."""
        self._after = self._heldout(self.job.spec.iterations)

    def metrics(self) -> dict[str, Any]:
        """What the report says beside the losses."""
        told = summary(read_rows(self.job.iterations_file))
        told["reward"] |= {"heldout_before": self._before, "heldout_after": self._after}
        return told

    def _heldout(self, number: int) -> float | None:
        version = self.iterations.sync.publish(number)
        collector = self.iterations.collector
        return collector.measure(version) if collector is not None else None

    def _end_iteration(self, number: int) -> None:
        run = self.iterations
        trainer = run.task.trainer
        learned = run.learned()
        figures = run.task.tally.take(trainer.args.device, trainer.batches.world)
        rollouts = run.current.rollouts
        num_tokens = sum(one.rollout.num_loss_tokens for one in rollouts)
        kl_answer = figures.kl * num_tokens / len(rollouts)
        coef = run.kl.coef
        # While the critic learns alone the divergence is 0, whatever its weight.
        if not math.isnan(kl_answer) and self.job.spec.learns_policy(number):
            run.kl.update(kl_answer)
        seconds = time.monotonic() - self._began
        self._began = time.monotonic()
        norms, self._grad_norms = self._grad_norms, []
        told = run.current.told
        row = IterationRow(
            iteration=number,
            version=number,
            oldest_version=min(one.rollout.version for one in rollouts),
            seconds=seconds,
            phases=told["seconds"]
            | {
                "sync": told["seconds"]["sync"] + run.seconds["publish"],
                "reference": run.seconds["reference"],
                "learn": learned,
                # In turns it is the very time that the engines take.
                "wait": run.seconds.get("wait", 0.0) if self.job.spec.max_staleness else 0.0,
            },
            tokens=num_tokens,
            tokens_per_second=num_tokens / max(seconds, 1e-9),
            lengths=_lengths(rollouts),
            reward=told["reward"],
            parts=_means([one.parts for one in rollouts]),
            judges=told["judges"],
            alike=_alike(rollouts),
            repetition=float(np.mean([repeated_share(one.rollout.output_ids, 3) for one in rollouts])),
            kl={"token": figures.kl, "answer": kl_answer, "coef": coef},
            entropy=figures.entropy,
            clip_fraction=figures.clip_fraction,
            ratio={"mean": figures.ratio_mean, "std": figures.ratio_std, "max": figures.ratio_max},
            gap={"mean": figures.gap_mean, "max": figures.gap_max},
            probe=told["probe"],
            grad_norm=float(np.mean(norms)),
            loss=figures.loss,
            value_loss=figures.value_loss,
            alarms=[],
            samples=self._samples(rollouts, told["prompts"]),
        )
        gap = self.job.spec.gap
        if self._write:
            self._tell(row)
        check_gap(row, gap.warn, gap.stop)  # all workers know the figures, and all stop

    def _tell(self, row: IterationRow) -> None:
        """Writes the row with what is alarming of it."""
        spec = self.job.spec
        row.alarms.extend(alarms([*self._rows, row], spec.kl.target))
        was_told = bool(self._rows) and self._rows[-1].gap["mean"] >= spec.gap.warn
        with suppress(FettleError):  # raised by all workers, once the row is written
            if not was_told and (warning := check_gap(row, spec.gap.warn, math.inf)) is not None:
                row.alarms.append(warning)
        self._recorder.write(row)
        self._rows.append(row)

    def _samples(self, rollouts: Sequence[Judged], prompts: dict[str, str]) -> list[Sample]:
        """A few answers, those to the iteration's first prompts."""
        first = [one for one in rollouts if one.rollout.sample == 0][: self.job.spec.recorder.samples]
        return [
            Sample(
                prompt=prompts[str(one.rollout.prompt)],
                completion=one.rollout.text,
                reward=one.reward,
                parts=one.parts,
                finish=one.rollout.finish,
                version=one.rollout.version,
                tokens=one.rollout.num_loss_tokens,
            )
            for one in first
        ]


def _lengths(rollouts: Sequence[Judged]) -> dict[str, float]:
    lengths = [one.rollout.num_loss_tokens for one in rollouts]
    truncated = np.mean([one.rollout.finish == "length" for one in rollouts])
    return {
        "mean": float(np.mean(lengths)),
        "min": float(min(lengths)),
        "max": float(max(lengths)),
        "truncated": float(truncated),
    }


def _means(parts: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([one[name] for one in parts])) for name in parts[0]}


def _alike(rollouts: Sequence[Judged]) -> float:
    """The share of groups whose answers were all rewarded alike."""
    groups: dict[int, set[float]] = {}
    is_single = max(one.rollout.sample for one in rollouts) == 0
    for one in rollouts:
        groups.setdefault(0 if is_single else one.rollout.prompt, set()).add(one.reward)
    return float(np.mean([len(found) == 1 for found in groups.values()]))
