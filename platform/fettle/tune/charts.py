"""A sweep drawn: its trials across all keys (parallel coordinates: Inselberg 1985), and how they learned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fettle.train.chart import BLUE, INK, ORANGE, QUIET, RULE, Chart, drawn, thinned
from fettle.train.progress import curve
from fettle.tune.ledger import Row
from fettle.tune.results import Results, as_value, short_names
from fettle.tune.space import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_HEIGHT = 3.0
_MOST = 80
"""Trials that are drawn: the best."""


def parallel(results: Results) -> Chart:
    """One line a trial from key to key to its score, of which the better end is at the top."""
    rows = [row for row in results.ranked if row.score is not None and row.state != "failed"][:_MOST]
    names = [*short_names(results.keys).values(), results.metric.rpartition(".")[2]]
    columns = [_column([row.settings[key] for row in rows]) for key in results.keys]
    columns.append(_column([row.score for row in rows], turned=results.mode == "min"))

    def draw(axes: Axes) -> None:
        places = list(range(len(columns)))
        for place, (_, low, high) in enumerate(columns):
            axes.axvline(place, color=RULE, linewidth=1, zorder=0)
            side: Any = "right" if place == places[-1] else "left"
            shift = -4 if side == "right" else 4
            for text, y, above in ((high, 1.0, 5), (low, 0.0, -12)):
                axes.annotate(
                    text,
                    (place, y),
                    (shift if place else 0, above),
                    textcoords="offset points",
                    ha=side,
                    fontsize=9,
                    color=QUIET,
                )
        for number in reversed(range(len(rows))):
            heights = [values[number] for values, _, _ in columns]
            is_best = results.best is not None and rows[number].id == results.best.id
            shade = 0.85 - 0.6 * number / max(1, len(rows) - 1)
            axes.plot(
                places,
                heights,
                color=ORANGE if is_best else BLUE,
                alpha=1 if is_best else shade,
                linewidth=2.4 if is_best else 1.1,
                marker="o",
                markersize=3,
                zorder=2 if is_best else 1,
            )
        axes.set_xticks(places, names, color=INK)
        axes.set_yticks([])
        axes.set_ylim(-0.16, 1.14)
        axes.set_xlim(-0.12, len(columns) - 0.88)
        axes.spines[["left", "bottom"]].set_visible(False)

    best = (
        f"; the best has {', '.join(as_value(results.best.settings[key]) for key in results.keys)}"
        if results.best
        else ""
    )
    told = f"{len(rows)} trials across {', '.join(names)}{best}"
    return drawn(results.recipe, "Settings and what they came to", told, "", draw, (4.6, _HEIGHT))


def learning(results: Results) -> Chart:
    """How each trial learned: by its score after each round, else by its training loss."""
    in_rounds = any(len(row.past) > 1 for row in results.rows)
    rows = results.ranked[:_MOST]
    lines = [(row, _scores(row) if in_rounds else _losses(row)) for row in rows]
    title = f"{results.metric} after each round" if in_rounds else f"Training loss of {results.stage}"

    def draw(axes: Axes) -> None:
        for row, points in reversed(lines):
            if not points:
                continue
            is_best = results.best is not None and row.id == results.best.id
            at, values = [one[0] for one in points], [one[1] for one in points]
            axes.plot(
                at,
                values,
                color=ORANGE if is_best else BLUE,
                alpha=1 if is_best else 0.4,
                linewidth=2 if is_best else 1,
                zorder=2 if is_best else 1,
                label="best" if is_best else None,
            )
            if row.state == "stopped":
                axes.plot(at[-1:], values[-1:], "o", color=BLUE, markersize=3.5, alpha=0.7)
        shown = sorted(value for _, points in lines for _, value in points if math.isfinite(value))
        if shown and shown[-1] > 4 * shown[int(0.9 * (len(shown) - 1))]:  # one that diverged would flatten all others
            axes.set_ylim(top=2 * shown[int(0.9 * (len(shown) - 1))])
        if results.best is not None:
            axes.legend(frameon=False, fontsize=10, handlelength=1.2)

    told = f"{title} of {len(lines)} trials"
    return drawn(results.recipe, title, told, "optimizer step", draw, (4.6, _HEIGHT))


def _scores(row: Row) -> list[tuple[float, float]]:
    return [(past.step, past.score) for past in row.past if past.score is not None]


def _losses(row: Row) -> list[tuple[float, float]]:
    steps = [(float(one.step), one.loss) for one in curve(Path(row.progress[-1]))] if row.progress else []
    return [(at, mean) for at, mean, _, _ in thinned([one for one in steps if math.isfinite(one[1])])]


def _column(values: Sequence[Any], *, turned: bool = False) -> tuple[list[float], str, str]:
    """(heights from 0 to 1, what is at the lower end, at the upper one); numbers over a tenfold by their logarithms,
    what is no number in the order of its words. turned: the largest is at the bottom."""
    if not values:
        return [], "", ""
    if all(isinstance(one, (int, float)) and not isinstance(one, bool) for one in values):
        low, high = min(values), max(values)
        is_log = low > 0 and high > 10 * low
        scaled = [math.log(one) if is_log else float(one) for one in values]
        ends = (as_value(low), as_value(high))
    else:
        known = sorted({str(plain(one)) for one in values})
        scaled = [float(known.index(str(plain(one)))) for one in values]
        words = sorted({as_value(one) for one in values}, key=lambda one: one)
        ends = (words[0], words[-1])
    first, last = min(scaled), max(scaled)
    heights = [0.5 if last == first else (one - first) / (last - first) for one in scaled]
    return ([1 - one for one in heights], ends[1], ends[0]) if turned else (heights, *ends)
