"""The reward: a weighted sum of its parts, each clipped and whitened by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fettle.data.record import Record
from fettle.recipe.rewards import RewardSpec
from fettle.rl.advantages import whitened
from fettle.rl.rewards.builtins import Builtin
from fettle.rl.rewards.function import FunctionScorer
from fettle.rl.rewards.scorer import Scorer
from fettle.rl.rewards.service import ServiceScorer
from fettle.rl.rollout import Judged, Rollout


class Rewards:
    """specs: of the recipe. scorers: one for each of them."""

    def __init__(self, specs: Sequence[RewardSpec], scorers: Sequence[Scorer]) -> None:
        assert len(specs) == len(scorers)
        self.specs, self.scorers = specs, scorers

    def score(self, rollouts: Sequence[Rollout], records: Sequence[Record]) -> list[dict[str, float]]:
        """Each part of each rollout's reward, by its name, as its scorer gave it."""
        found = [scorer.score(rollouts, records) for scorer in self.scorers]
        names = [spec.part for spec in self.specs]
        return [dict(zip(names, values, strict=True)) for values in zip(*found, strict=True)]

    def plain_mean(self, parts: Sequence[Mapping[str, float]]) -> float:
        """The mean reward of some rollouts, nothing whitened: what is told of them, since whitened it is always 0."""
        plain = [(spec, spec.clip or (-np.inf, np.inf)) for spec in self.specs]
        return float(sum(spec.weight * np.mean(np.clip([p[spec.part] for p in parts], *clip)) for spec, clip in plain))

    def totals(self, parts: Sequence[Mapping[str, float]]) -> np.ndarray:
        """The reward of each rollout of an iteration, float64 [N]: each part clipped, whitened over all of them, times
        its weight."""
        total = np.zeros(len(parts))
        for spec in self.specs:
            values = np.array([part[spec.part] for part in parts], dtype=np.float64)
            if spec.clip is not None:
                values = values.clip(*spec.clip)
            if spec.whiten:
                (values,) = whitened([values])
            total += spec.weight * values
        return total

    def judged(self, rollouts: Sequence[Rollout], records: Sequence[Record]) -> list[Judged]:
        """An iteration's rollouts with their parts and rewards."""
        parts = self.score(rollouts, records)
        return [
            Judged(one, part, float(reward))
            for one, part, reward in zip(rollouts, parts, self.totals(parts), strict=True)
        ]


def make_scorer(
    spec: RewardSpec, resolve: Callable[[str], Path], model: Callable[[str], Scorer], **where: Any
) -> Scorer:
    """What gives one part of the reward. resolve: a path of the recipe. model: the scorer of a stage's name or a reward
    model's folder. where: file, line, field of the recipe, for a UserError."""
    if spec.stage is not None:
        return model(spec.stage)
    if spec.function is not None:
        return FunctionScorer(spec.function, resolve, **where)
    return Builtin(spec) if spec.builtin is not None else ServiceScorer(spec)
