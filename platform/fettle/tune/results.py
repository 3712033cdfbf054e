"""What a sweep came to: its trials, the best of them, and a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from fettle.pipeline.console import duration
from fettle.recipe import Recipe
from fettle.recipe.sweep import SweepSpec
from fettle.tune.ledger import Row, so_far
from fettle.tune.space import Settings
from fettle.tune.study import metric_stage

_SHOWN = 24  # rows of a table in a terminal


@dataclass(frozen=True)
class Results:
    """rows: in the order in which the trials began, and `best` the one whose score is best, of those that came to their
    end; where none did, of those that were stopped. out: the sweep's folder. seconds: of all of it."""

    recipe: str
    search: str
    stage: str
    metric: str
    mode: str
    keys: tuple[str, ...]
    out: Path
    seconds: float
    rows: tuple[Row, ...]
    best: Row | None

    @property
    def steps(self) -> int:
        """Optimizer steps of all trials."""
        return sum(row.steps for row in self.rows)

    @property
    def tokens(self) -> int:
        """That all trials have learned from."""
        return sum(row.tokens for row in self.rows)

    @property
    def ranked(self) -> list[Row]:
        """The best first; those without a score last."""
        sign = 1 if self.mode == "min" else -1
        return sorted(self.rows, key=lambda row: (not _is_whole(row), row.score is None, sign * (row.score or 0.0)))

    def number(self, row: Row) -> int:
        """Of a trial, from 1, in the order in which they began."""
        return [one.id for one in self.rows].index(row.id) + 1


def results_of(recipe: Recipe, out: Path, rows: Sequence[Row], seconds: float) -> Results:
    """Of the trials in a sweep's folder."""
    spec = recipe.sweep
    assert spec is not None
    return Results(
        recipe=recipe.name,
        search=spec.search,
        stage=metric_stage(recipe),
        metric=spec.metric.name,
        mode=spec.metric.mode,
        keys=tuple(spec.space),
        out=out,
        seconds=round(seconds, 1),
        rows=tuple(so_far(row) for row in rows),
        best=best_of(rows, spec),
    )


def best_of(rows: Sequence[Row], spec: SweepSpec) -> Row | None:
    """The best trial that came to its end; where none did, the best of those that have a score."""
    scored = [row for row in rows if row.score is not None and row.state != "failed"]
    sign = 1 if spec.metric.mode == "min" else -1
    return min(scored, key=lambda row: (not _is_whole(row), sign * (row.score or 0.0)), default=None)


def line(row: Row, number: int, rows: Sequence[Row], spec: SweepSpec) -> str:
    """A trial that is over, in a line: `2/9  trial 3  1.2340  best so far  lr 0.001  12 s`. number: how many are."""
    score = f"{row.score:.4f}" if row.score is not None and row.state != "failed" else row.error[:60] or "failed"
    best = best_of(rows, spec)
    state = "best so far" if best is not None and best.id == row.id else row.state
    count = f"{number}/{spec.trials}" if spec.trials else str(number)
    which = [one.id for one in rows].index(row.id) + 1
    told = f"{score}  {state:<11}  {in_words(row.settings)}  {duration(row.seconds)}"
    return f"{count:<6} trial {which:<3} {told}"


def table(results: Results) -> Table:
    """The trials, the best first."""
    drawn = Table(box=None, pad_edge=False)
    names = short_names(results.keys)
    columns = ["trial", *names.values(), results.metric, "steps", "time", ""]
    for name in columns:
        drawn.add_column(name, justify="left" if name in {"trial", ""} else "right", no_wrap=True)
    for row in results.ranked[:_SHOWN]:
        score = f"{row.score:.4f}" if row.score is not None and row.state != "failed" else "–"
        is_best = results.best is not None and row.id == results.best.id
        state = "best" if is_best else "" if row.state == "done" else row.state
        values = [as_value(row.settings[key]) for key in results.keys]
        drawn.add_row(str(results.number(row)), *values, score, f"{row.steps:,}", duration(row.seconds), state)
    count = len(results.rows)
    left = f"; the best {_SHOWN} of them" if count > _SHOWN else ""
    drawn.caption = (
        f"{count} trials, {results.steps:,} steps, {results.tokens:,} tokens, {duration(results.seconds)}{left}"
    )
    drawn.caption_justify = "left"
    return drawn


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Of dotted keys as few of their last parts as tell them apart."""
    found = {}
    for key in keys:
        parts = key.split(".")
        for count in range(1, len(parts) + 1):
            name = ".".join(parts[-count:])
            if sum(other == name or other.endswith(f".{name}") for other in keys) == 1:
                break
        found[key] = name
    return found


def in_words(settings: Settings) -> str:
    """`lr 0.001, r 8`."""
    names = short_names(list(settings))
    return ", ".join(f"{names[key]} {as_value(value)}" for key, value in settings.items())


def as_value(value: Any) -> str:
    """Of a setting, as a recipe would have it."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {as_value(one)}" for key, one in value.items()) + "}"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _is_whole(row: Row) -> bool:
    return row.state == "done"
