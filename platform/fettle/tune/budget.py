"""How far a sweep may go, and how it is ended there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fettle.pipeline.console import duration
from fettle.recipe.sweep import BudgetSpec
from fettle.train.rounds import tell
from fettle.tune.ledger import Row, so_far


@dataclass(frozen=True)
class Budget:
    """spec: None where there is no end to it."""

    spec: BudgetSpec | None

    def reached(self, seconds: float, rows: Sequence[Row]) -> str | None:
        """What was reached, in words. seconds: of the sweep so far."""
        if self.spec is None:
            return None
        if seconds >= self.spec.seconds:
            spent = duration(seconds)
            if self.spec.money is not None and self.spec.price_per_hour is not None:
                return f"{spent}, which cost {seconds / 3600 * self.spec.price_per_hour:.2f}"
            return spent
        if self.spec.tokens is not None and (tokens := sum(so_far(row).tokens for row in rows)) >= self.spec.tokens:
            return f"{tokens:,} tokens"
        return None


def end_all(rows: Sequence[Row]) -> None:
    """Has the trials that are under way write a checkpoint, and stop."""
    for row in (one for one in rows if not one.is_over):
        for file in row.progress:
            if Path(file).parent.is_dir():
                tell(Path(file).parent, None)
