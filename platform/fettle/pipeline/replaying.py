"""How much a stage replays, where the recipe says `auto`: as little as keeps what it forgets within the budget.

A stage is trained with the smallest share; where its language model has forgotten more of the retention's probe set
than `budget`, with the next. Each is a stage of its own fingerprint, and found again as any finished stage is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fettle.data.sources import open_source
from fettle.errors import UserError
from fettle.pipeline.graph import plan_stages
from fettle.pipeline.planned import Planned
from fettle.pipeline.retention import retention
from fettle.recipe import Recipe
from fettle.recipe.data import FRACTIONS
from fettle.recipe.evaluate import RetentionSpec
from fettle.recipe.kinds import YIELDS_MODEL
from fettle.recipe.stages import TrainingStage

Train = Callable[[Recipe, Sequence[Planned]], None]


def undecided(recipe: Recipe) -> list[str]:
    """Names of the stages whose share is yet to be found. Raises UserError where there is no budget to find it by."""
    found = [
        stage
        for stage in recipe.stages
        if isinstance(stage, TrainingStage) and stage.replay is not None and stage.replay.fraction == "auto"
    ]
    for stage in found:
        where = recipe.where(f"stages.{stage.name}.replay.fraction")
        if stage.kind not in YIELDS_MODEL:
            raise UserError(
                f"auto finds the share by what a language model forgets, and {stage.kind} yields none", **where
            )
        if not _budgets(recipe):
            raise UserError(
                "auto finds the share by what the stage forgets, and no budget says how much it may",
                **where,
                expected="an entry {kind: retention, data: PROBE, budget: 0.02} of evaluate",
                fix="add one, or name a share: fraction: 0.1",
            )
    return [stage.name for stage in found]


def decided(recipe: Recipe, out: Path, until: str | None, train: Train, say: Callable[[str], None]) -> Recipe:
    """The recipe with the shares that were found, in the order of the stages, up to `until`. train: has stages trained
    that are not done."""
    for name in undecided(recipe):
        recipe = _with_share(recipe, name, out, train, say)
        if name == until:
            break
    return recipe


def _with_share(recipe: Recipe, name: str, out: Path, train: Train, say: Callable[[str], None]) -> Recipe:
    number, spec = _budgets(recipe)[0]
    tried: list[tuple[float, float, Recipe]] = []
    for fraction in FRACTIONS:
        trial = _replaying(recipe, name, fraction)
        stages = plan_stages(trial, out, name)
        if not all(stage.is_done for stage in stages):
            say(f"{name}: is trained with {fraction:.0%} replayed")
            train(trial, [stage for stage in stages if not stage.is_done])
        where = recipe.where(f"evaluate.{number}")
        probe = open_source(spec.data, recipe.resolve, **recipe.where(f"evaluate.{number}.data"))
        kept = retention(stages, probe, spec, out, say, recipe.seed, **where)
        forgotten = next(row.forgetting["mean"] for row in kept.stages if row.stage == name)
        assert spec.budget is not None
        say(f"{name}: with {fraction:.0%} replayed it forgets {forgotten:+.3f} nats a token; budget {spec.budget:g}")
        tried.append((forgotten, fraction, trial))
        if forgotten <= spec.budget:
            return trial
    _, fraction, trial = min(tried, key=lambda one: one[0])
    say(f"{name}: no share keeps it within the budget; goes on with {fraction:.0%}, with which it forgets least")
    return trial


def _budgets(recipe: Recipe) -> list[tuple[int, RetentionSpec]]:
    return [
        (number, spec)
        for number, spec in enumerate(recipe.evaluate)
        if isinstance(spec, RetentionSpec) and spec.budget is not None
    ]


def _replaying(recipe: Recipe, name: str, fraction: float) -> Recipe:
    """The recipe whose stage replays that share."""

    def changed(stage: Any) -> Any:
        if stage.name != name:
            return stage
        return stage.model_copy(update={"replay": stage.replay.model_copy(update={"fraction": fraction})})

    return recipe.model_copy(update={"stages": tuple(map(changed, recipe.stages))})
