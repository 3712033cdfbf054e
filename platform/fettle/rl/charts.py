"""A run of reinforcement learning as one picture."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from fettle.rl.recorder import PHASES, IterationRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BLUE, _ORANGE = "#2f6db3", "#c4622d"  # as in the other charts of a report
_COLOURS = {
    "generate": _BLUE,
    "score": "#8fb4dc",
    "reference": "#b9a3cf",
    "learn": _ORANGE,
    "sync": "#7a9a6b",
    "wait": "#d5d9dd",
}
_FEW = 3  # so few iterations are drawn as dots: a line through one of them would be nothing


def figure(rows: Sequence[IterationRow], heldout: Sequence[tuple[int, float]] = ()) -> str:
    """An SVG element of reward, divergence, length, entropy, gap and the phases' seconds over the iterations.

    heldout: (iterations done, reward on the held-out prompts). An empty string where there are no rows.
    """
    if not rows:
        return ""
    # Only here, because reports are imported by commands that draw nothing.
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    drawn = Figure(figsize=(9, 4.6), layout="constrained")
    panels: list[Axes] = list(drawn.subplots(2, 3, sharex=True).flat)
    reward, kl, length, entropy, gap, phases = panels
    _line(reward, rows, "reward", lambda row: row.reward)
    if heldout:
        reward.plot(*zip(*heldout, strict=True), "o", color=_ORANGE, label="held out")
        reward.legend(frameon=False, fontsize="small")
    _line(kl, rows, "divergence, nats an answer", lambda row: row.kl["answer"])
    _line(length, rows, "length, tokens an answer", lambda row: row.lengths["mean"])
    _line(entropy, rows, "entropy, nats a token", lambda row: row.entropy)
    # No gap at all, as with one engine and one dtype on a CPU, has no place on a log axis.
    _line(gap, rows, "gap of sampler and learner, nats", lambda row: row.gap["mean"] or math.nan, empty="0 or none")
    if any(row.gap["mean"] > 0 for row in rows):
        gap.set_yscale("log")
    _phases(phases, rows)
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e6e6e6")
        axes.set_axisbelow(True)
        axes.tick_params(labelsize="small")
    for axes in panels[3:]:
        axes.set_xlabel("iteration")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
    text = io.StringIO()
    drawn.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


def _line(
    axes: Axes,
    rows: Sequence[IterationRow],
    title: str,
    value: Callable[[IterationRow], float],
    empty: str = "none measured",
) -> None:
    iterations, values = [row.iteration for row in rows], [value(row) for row in rows]
    axes.plot(iterations, values, color=_BLUE, linewidth=1.2, marker="o" if len(rows) <= _FEW else None)
    axes.set_title(title, loc="left", fontsize="medium")
    if not any(math.isfinite(one) for one in values):
        axes.text(0.5, 0.5, empty, transform=axes.transAxes, ha="center", color="#66727f")
        axes.set_yticks([])


def _phases(axes: Axes, rows: Sequence[IterationRow]) -> None:
    names = [name for name in (*PHASES, "wait") if any(row.phases.get(name) for row in rows)]
    stacked = [[row.phases.get(name, 0.0) for row in rows] for name in names]
    if names and len(rows) > 1:
        axes.stackplot([r.iteration for r in rows], stacked, labels=names, colors=[_COLOURS[name] for name in names])
    elif names:
        low = 0.0
        for name, (seconds,) in zip(names, stacked, strict=True):
            axes.bar(rows[0].iteration, seconds, bottom=low, label=name, color=_COLOURS[name])
            low += seconds
    axes.set_title("seconds an iteration", loc="left", fontsize="medium")
    if names:
        axes.set_ylim(0, 1.4 * max(sum(row) for row in zip(*stacked, strict=True)))  # the legend stands above the stack
        axes.legend(frameon=False, fontsize="x-small", ncols=3, loc="upper right")
