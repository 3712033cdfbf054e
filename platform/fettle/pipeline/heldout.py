"""Whether anything is held out for what a stage wants to measure on, found out before any worker starts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fettle.data.tokens import DEFAULT_HELDOUT, TokenSet, choose_heldout
from fettle.errors import UserError
from fettle.pipeline.planned import PlannedStage
from fettle.recipe import Recipe


def check_early_stop(
    recipe: Recipe, stage: PlannedStage, tokens: Sequence[tuple[Path, ...]], heldout: tuple[Path, ...]
) -> None:
    """Raises UserError where a stage that may end early has nothing to measure on. heldout: folders of held-out
    examples, or none for a share of the first of `tokens`, where those are known."""
    spec = stage.spec
    if spec.early_stop is None or not (heldout or tokens):
        return
    if heldout:
        count = len(TokenSet(*heldout))
    else:
        count = len(choose_heldout(TokenSet(*tokens[0]), spec.heldout or DEFAULT_HELDOUT)[1])
    if count:
        return
    field = f"stages.{spec.name}.early_stop"
    raise UserError(
        "no record is held out, so there is no loss to stop by",
        **recipe.where(field),
        expected="two different records at least, of which one is held out, or heldout: {data: FILE} with one to learn",
        fix="name heldout: {data: FILE}, or remove early_stop",
    )
