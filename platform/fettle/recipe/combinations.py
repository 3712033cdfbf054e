"""Settings that are each right and do not go together, over a stage and its worker group."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fettle.errors import UserError
from fettle.recipe.stages import TrainingStage

if TYPE_CHECKING:
    from fettle.recipe.top import Recipe

_BY_SHAPE = ("adafactor", "muon")
"""Optimizers whose step depends on a weight being a matrix; ZeRO hands each worker a piece of one long vector."""


def check_combinations(recipe: Recipe) -> None:
    """Raises UserError at the first stage whose optimizer does not work as its group shares the weights out."""
    for stage in recipe.stages:
        if not isinstance(stage, TrainingStage):
            continue
        cluster = stage.cluster or recipe.cluster
        kind = stage.optimizer.kind
        field = f"stages.{stage.name}.optimizer"
        if cluster.offload and kind != "adamw":
            raise UserError(
                f"{kind} has no offloaded form",
                file=recipe.file,
                line=recipe.line(field),
                field=field,
                expected="adamw, where cluster.offload is true",
                fix="set offload: false, or optimizer: adamw",
            )
        if cluster.zero > 0 and kind in _BY_SHAPE:
            raise UserError(
                f"{kind} looks at whole matrices, and ZeRO {cluster.zero} shares them out in pieces",
                file=recipe.file,
                line=recipe.line(field),
                field=field,
                expected="adamw, adam, sgd or rmsprop with zero: 1 to 3",
                fix="set cluster.zero: 0 (several workers work too), or another optimizer",
            )
