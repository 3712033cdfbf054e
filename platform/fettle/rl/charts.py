"""A run of reinforcement learning as pictures: what its flight recorder has, over the iterations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from fettle.rl.recorder import PHASES, IterationRow
from fettle.train.chart import BLUE, ORANGE, Chart, Point, drawn, line_chart, thinned

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_X = "iteration"
_COLOURS = {
    "generate": BLUE,
    "score": "#8fb4dc",
    "reference": "#b9a3cf",
    "learn": ORANGE,
    "sync": "#7a9a6b",
    "wait": "#d5d9dd",
}


def charts(of: str, rows: Sequence[IterationRow], heldout: Sequence[Point] = ()) -> list[Chart]:
    """Reward, divergence, length, entropy, gap and the phases' seconds. Empty where there are no rows.

    of: the stage. heldout: (iterations done, reward on the held-out prompts).
    """
    if not rows:
        return []

    def over(value: Callable[[IterationRow], float]) -> list[Point]:
        return [(row.iteration, value(row)) for row in rows]

    return [
        line_chart(of, "Reward", over(lambda row: row.reward), x=_X, dots=heldout),
        line_chart(of, "Divergence, nats an answer", over(lambda row: row.kl["answer"]), x=_X),
        line_chart(of, "Length, tokens an answer", over(lambda row: row.lengths["mean"]), x=_X),
        line_chart(of, "Entropy, nats a token", over(lambda row: row.entropy), x=_X),
        # No gap at all, as with one engine and one dtype on a CPU, has no place on a log axis.
        line_chart(of, "Gap of sampler and learner, nats a token", over(lambda row: row.gap["mean"]), x=_X, log=True),
        _phases(of, rows),
    ]


def _phases(of: str, rows: Sequence[IterationRow]) -> Chart:
    names = [name for name in (*PHASES, "wait") if any(row.phases.get(name) for row in rows)]
    means = {name: thinned([(row.iteration, row.phases.get(name, 0.0)) for row in rows]) for name in names}

    def draw(axes: Axes) -> None:
        if not names:
            return
        places = [one[0] for one in means[names[0]]]
        stacked = [[one[1] for one in means[name]] for name in names]
        if len(places) > 1:
            axes.stackplot(places, stacked, labels=names, colors=[_COLOURS[name] for name in names])
        else:
            low = 0.0
            for name, (seconds,) in zip(names, stacked, strict=True):
                axes.bar(places[0], seconds, bottom=low, label=name, color=_COLOURS[name])
                low += seconds
        axes.set_ylim(0, 1.5 * max(sum(each) for each in zip(*stacked, strict=True)))  # the legend stands above
        axes.legend(frameon=False, fontsize=10, ncols=3, handlelength=1.2, columnspacing=1, loc="upper right")

    sums = ", ".join(f"{name} {sum(row.phases.get(name, 0.0) for row in rows):.0f}" for name in names)
    return drawn(of, "Seconds an iteration", f"Seconds of {of}'s iterations, in all: {sums or 'none'}", _X, draw)
