"""A worker of Ray Tune: one process that has one trial after the other, so that torch and the frozen base are loaded
once; beside others on its machine, which share the base's memory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ray import tune

from fettle.models.shared import KeptBases
from fettle.train.group import worker_env
from fettle.tune.study import Sweep
from fettle.tune.trial import Trial


class Runner(tune.Trainable):
    """config: `trial`, what was drawn for one."""

    def setup(self, config: dict[str, Any], sweep: Sweep | None = None) -> None:
        assert sweep is not None
        self.sweep = sweep
        self.bases = KeptBases(sweep.out / "ray" / "bases" if sweep.concurrent > 1 else None)
        self.trial = Trial(sweep, sweep.own(config["trial"], self.trial_id), self.bases)
        os.environ |= worker_env(self.trial.last.cluster)

    def step(self) -> dict[str, Any]:
        return self.trial.step()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        self.trial.save(Path(checkpoint_dir))

    def load_checkpoint(self, checkpoint: Any) -> None:
        self.trial.go_on_from(Path(checkpoint))

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.trial.pause()
        self.trial = Trial(self.sweep, self.sweep.own(new_config["trial"], self.trial_id), self.bases)
        return True

    def cleanup(self) -> None:
        self.trial.pause()
