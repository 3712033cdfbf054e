"""What a stage tells of itself: a row for every step, the held-out measures before and after, the report's figures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from transformers import TrainerCallback

from fettle.artifact import replace_text
from fettle.train.job import LearnJob
from fettle.train.progress import ProgressWriter, StepRow, curve
from fettle.train.trainer import StageTrainer, Underway

_NEXT_ATTEMPT_S = 5  # a worker group takes longer to start; a wall clock is not set by as much


class StageReport(TrainerCallback):
    """Writes each step down, and measures the held-out loss before and after."""

    def __init__(self, job: LearnJob, steps: Underway, *, write: bool) -> None:
        self.job, self.steps = job, steps
        self.trainer: StageTrainer
        self.writer = ProgressWriter(job.progress) if write else None
        self.before_file = job.folder / "heldout_before.json"
        self.before: dict[str, float] = {}
        self.after: dict[str, float] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.task.prepare(self.trainer)
        if self.before_file.is_file():  # a resumed run: the model is no longer the one the stage received
            self.before = json.loads(self.before_file.read_text(encoding="utf-8"))
        else:
            self.before = self.trainer.heldout_measures(self.steps.heldout)
            if self.writer:
                replace_text(self.before_file, json.dumps(self.before))
        if self.writer:
            self.writer.start_clock()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if self.writer and "loss" in logs:
            examples = self.steps[state.global_step]
            is_of_tokens = self.trainer.task.unit == "token"
            self.writer.write(
                step=state.global_step,
                steps=state.max_steps,
                loss=float(logs["loss"]),
                lr=float(logs["learning_rate"]),
                grad_norm=float(logs.get("grad_norm") or 0.0),
                tokens=sum(len(e.input_ids) for e in examples),
                loss_tokens=self.trainer.num_terms if is_of_tokens else sum(int(e.loss_mask.sum()) for e in examples),
                reward=self.steps.reward,
            )

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.after = self.trainer.heldout_measures(self.steps.heldout)

    def metrics(self) -> dict[str, Any]:
        """What the report says of the stage; the loss is a mean over the task's unit, mostly in nats a token."""
        rows = curve(self.job.progress)
        tenth = max(1, len(rows) // 10)
        return {
            "seconds": round(_elapsed(rows), 1),
            "steps": len(rows),
            "tokens": {"loss_bearing": sum(r.loss_tokens for r in rows), "all": sum(r.tokens for r in rows)},
            "loss": {
                "first": sum(r.loss for r in rows[:tenth]) / tenth,
                "last": sum(r.loss for r in rows[-tenth:]) / tenth,
                "heldout_before": self.before.get("loss"),
                "heldout_after": self.after.get("loss"),
            },
            "unit": self.trainer.task.unit,
            "measures": {
                name: {"before": self.before.get(name), "after": value}
                for name, value in self.after.items()
                if name != "loss"
            },
        }


def _elapsed(rows: Sequence[StepRow]) -> float:
    """Seconds of training that led to the result; an attempt's clock begins at 0."""
    total, last, began = 0.0, 0.0, 0.0
    for row in rows:
        # The next attempt may have taken longer to its first step than the one before lived, but it began later.
        if row.seconds < last or row.time - row.seconds > began + _NEXT_ATTEMPT_S:
            last = 0.0
        began = row.time - row.seconds
        total += row.seconds - last
        last = row.seconds
    return total
