"""The curves of one experiment over several seeds as one picture: each seed thin, their mean bold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fettle.rl.recorder import IterationRow

_BLUE, _ORANGE = "#2f6db3", "#c4622d"  # as in reports


class Run(Protocol):
    """before, after: the reward of held-out prompts."""

    @property
    def before(self) -> float: ...

    @property
    def after(self) -> float: ...

    @property
    def rows(self) -> list[IterationRow]: ...


def draw(file: Path, runs: Sequence[Run], reward: str) -> None:
    """Writes an SVG of reward, divergence, length and gap. reward: what it is called."""
    drawn = Figure(figsize=(9, 2.6), layout="constrained")
    panels: list[Any] = list(drawn.subplots(1, 4))
    _panel(panels[0], runs, reward, lambda row: row.reward)
    _panel(panels[1], runs, "KL, nats an answer", lambda row: row.kl["answer"])
    _panel(panels[2], runs, "tokens an answer", lambda row: row.lengths["mean"])
    _panel(panels[3], runs, "gap, nats a token", lambda row: row.gap["mean"] or np.nan)
    if any(row.gap["mean"] > 0 for run in runs for row in run.rows):
        panels[3].set_yscale("log")
    measured = np.array([[run.before, run.after] for run in runs])
    ends = [0, max(len(run.rows) for run in runs)]
    for each in measured:
        panels[0].plot(ends, each, "o", color=_ORANGE, markersize=3, alpha=0.5)
    panels[0].plot(ends, measured.mean(axis=0), "o", color=_ORANGE, markersize=5, label="held out")
    panels[0].legend(frameon=False, fontsize="x-small")
    file.parent.mkdir(parents=True, exist_ok=True)
    with rc_context({"svg.hashsalt": file.stem, "svg.fonttype": "none"}):
        drawn.savefig(file, format="svg", metadata={"Date": None})


def _panel(axes: Any, runs: Sequence[Run], title: str, value: Callable[[IterationRow], float]) -> None:
    length = min(len(run.rows) for run in runs)
    values = np.array([[value(row) for row in run.rows[:length]] for run in runs], dtype=float)
    for each in values:
        axes.plot(each, color=_BLUE, linewidth=0.6, alpha=0.4)
    axes.plot(values.mean(axis=0), color=_BLUE, linewidth=1.6)
    axes.set_title(title, loc="left", fontsize="medium")
    axes.set_xlabel("iteration", fontsize="small")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e6e6e6")
    axes.set_axisbelow(True)
    axes.tick_params(labelsize="small")
