"""Early stopping: a stage ends when its held-out loss has not fallen for so many measurements."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from fettle.recipe.optimizer import EarlyStopSpec

if TYPE_CHECKING:
    from fettle.train.trainer import StageTrainer

_FILE = "early.json"


@dataclass
class HeldoutBest:
    """The lowest held-out loss so far and the step after which it was measured; how many have not been lower since."""

    loss: float = math.inf
    step: int = 0
    misses: int = 0

    def improved_by(self, loss: float, step: int, min_delta: float) -> bool:
        """Takes a measurement down; whether it is the best so far."""
        if loss < self.loss - min_delta:
            self.loss, self.step, self.misses = loss, step, 0
            return True
        self.misses += 1
        return False


class EarlyStopping(TrainerCallback):
    """Measures every so many steps and after the last; all workers see the same loss, so all stop at the same step.

    checkpoint: the one the stage goes on from, which holds what was measured before it.
    """

    def __init__(self, spec: EarlyStopSpec, checkpoint: Path | None) -> None:
        self.spec = spec
        told = json.loads((checkpoint / _FILE).read_text(encoding="utf-8")) if checkpoint else {}
        self.best = HeldoutBest(**told)
        self.trainer: StageTrainer

    @property
    def has_ended(self) -> bool:
        """Whether the stage has stopped, also where it was interrupted after that."""
        return self.best.misses >= self.spec.patience

    @property
    def kept_step(self) -> int | None:
        """The step whose checkpoint has to stay; None while there is none."""
        return self.best.step or None if self.spec.keep == "best" else None

    def metrics(self) -> dict[str, Any]:
        """What the report says: the best measurement, its step, and whether the stage ended early."""
        heldout = self.best.loss if self.best.step else None
        return {"early_stop": {"step": self.best.step, "heldout": heldout, "stopped": self.has_ended}}

    def write(self, checkpoint: Path) -> None:
        """Writes what has been measured into a checkpoint that is not complete yet."""
        (checkpoint / _FILE).write_text(json.dumps(asdict(self.best)), encoding="utf-8")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        step = state.global_step
        if step % self.spec.every and step != state.max_steps:
            return
        loss = self.trainer.heldout_measures(self.trainer.steps.heldout)["loss"]
        if self.best.improved_by(loss, step, self.spec.min_delta):
            control.should_save = control.should_save or self.spec.keep == "best"
        elif self.has_ended:
            control.should_training_stop = True

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.kept_step is not None and self.kept_step != state.global_step:
            self.trainer.take_weights(self.kept_step)
