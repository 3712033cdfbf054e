"""What stages that train a model with a head need, checked before any worker starts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fettle.artifact import is_artifact, read_artifact
from fettle.data.tokens import TokenSet
from fettle.errors import UserError
from fettle.models.heads import check_headed
from fettle.pipeline.planned import PlannedStage
from fettle.recipe import Recipe
from fettle.recipe.kinds import RewardStage

# Kinds of stages whose artifacts have a head in place of the language model's.
_HEADED = {"reward": "reward", "classify": "classifier"}


def check_head(recipe: Recipe, stage: PlannedStage) -> None:
    """Raises UserError where the stage begins from a model with another kind of head, or of a family that has none."""
    key = "from" if stage.spec.from_ is not None else "base" if stage.spec.base is not None else None
    field = f"stages.{stage.spec.name}.{key}" if key else "base"
    where: dict[str, Any] = recipe.where(field)
    begins_from = stage.origin.adapter or stage.origin.base
    kind = read_artifact(begins_from).kind if is_artifact(begins_from) else "model"
    if kind in _HEADED.values() and kind != _HEADED.get(stage.spec.kind):
        wanted = next(name for name, made in _HEADED.items() if made == kind)
        raise UserError(
            f"{begins_from.name} is a {kind if kind == 'classifier' else 'reward model'}, which has no language model's"
            " head any more",
            **where,
            expected=f"a language model; only a stage of kind {wanted} goes on from this one",
        )
    if stage.spec.kind in _HEADED:
        check_headed(stage.origin.root, **where)


def check_margins(recipe: Recipe, stage: PlannedStage, tokens: Sequence[tuple[Path, ...]]) -> None:
    """Raises UserError where a reward stage asks for margins and no record tells any."""
    if not isinstance(stage.spec, RewardStage) or not stage.spec.margin:
        return
    if any(TokenSet(*folders).has_values() for folders in tokens):
        return
    field = f"stages.{stage.spec.name}.margin"
    raise UserError(
        "no record says by how much an answer is better",
        **recipe.where(field),
        expected="records with a margin, or with a score for each answer",
        fix="remove margin: true",
    )
