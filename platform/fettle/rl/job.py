"""What the driver hands a worker group of a stage of `kind: rl`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from fettle.data.sources import OpenSource
from fettle.recipe.cluster import ClusterSpec
from fettle.recipe.rl import RlStage
from fettle.rl.recorder import ITERATIONS
from fettle.train.job import LearnJob


@dataclass(frozen=True, kw_only=True)
class RlJob(LearnJob):
    """One stage of reinforcement learning.

    prompts, heldout_prompts: sources of records; without the latter a share of the prompts is held out. models: the
    reward models' folders, by what the recipe calls them. critic: a reward model's folder that the critic begins as.
    recipe_folder: to which the recipe's paths are relative.
    """

    spec: RlStage
    prompts: tuple[OpenSource, ...]
    heldout_prompts: OpenSource | None
    models: tuple[tuple[str, Path], ...]
    critic: Path | None
    recipe_folder: Path

    @property
    def save_every(self) -> int:
        """Optimizer steps between two checkpoints, which are at ends of iterations."""
        return self.spec.steps_between_checkpoints

    @property
    def saves_after(self) -> int:
        """At the ends of iterations."""
        return self.spec.steps_per_iteration

    @property
    def learned_from(self) -> tuple[Path, ...]:
        """The reward models, and what the critic begins as."""
        return tuple(dict.fromkeys([folder for _, folder in self.models] + ([self.critic] if self.critic else [])))

    def beside(self, cluster: ClusterSpec) -> tuple[int, int]:
        """CPUs and GPUs of engines and reward models."""
        return self.spec.cpus_beside(cluster), self.spec.gpus_beside(cluster)

    @property
    def iterations_file(self) -> Path:
        """The flight recorder's."""
        return self.folder / ITERATIONS

    @property
    def merged_first(self) -> bool:
        """Whether the adapter that the stage begins from is merged into the base beforehand."""
        return self.adapter.is_beside and self.from_adapter is not None and self.spec.merge_first

    def resolve(self, path: str) -> Path:
        """A path of the recipe."""
        return Path(os.path.abspath(self.recipe_folder / Path(path).expanduser()))
