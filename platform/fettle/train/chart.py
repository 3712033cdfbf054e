"""One chart of a report: an SVG element that fits a phone, in the page's own colours, light and dark."""

from __future__ import annotations

import html
import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST = 300
"""Points of the longest curve; of a longer run each is the mean of several steps."""
INK, QUIET, RULE, BLUE, ORANGE = "#1c2733", "#5c6873", "#e3e7eb", "#2f6db3", "#c4622d"
_COLOURS = {INK: "ink", QUIET: "quiet", RULE: "rule", BLUE: "blue", ORANGE: "orange"}
_SIZE = (4.6, 2.5)  # inches of 72 units, and a phone is 360 wide: letters come out as large as those of the page
_FEW = 3  # so few points are drawn as dots: a line through one of them would be nothing

Point = tuple[float, float]


@dataclass(frozen=True)
class Chart:
    """title: what is drawn. svg: an element that names itself in words, for those who do not see it."""

    title: str
    svg: str


def line_chart(
    of: str, title: str, points: Sequence[Point], *, x: str, dots: Sequence[Point] = (), log: bool = False
) -> Chart:
    """The points as a line, thinned to `MOST`, and dots for what was held out. of: the stage; x: what is counted.

    Where a point stands for several, a band tells their lowest and highest. log: of y, where it spans a tenfold, and
    without what is 0.
    """
    known = [(at, value) for at, value in points if math.isfinite(value) and (value > 0 or not log)]

    def draw(axes: Axes) -> None:
        if not known:
            axes.text(0.5, 0.5, "none measured", transform=axes.transAxes, ha="center", color=QUIET)
            axes.set_yticks([])
        shown = thinned(known)
        if len(shown) < len(known):
            places, lows, highs = ([one[i] for one in shown] for i in (0, 2, 3))
            axes.fill_between(places, lows, highs, color=BLUE, alpha=0.2, linewidth=0)
        at, values = [one[0] for one in shown], [one[1] for one in shown]
        axes.plot(at, values, color=BLUE, linewidth=1.4, marker="o" if len(shown) <= _FEW else None, label="training")
        if log and known and max(known, key=_value)[1] > 10 * min(known, key=_value)[1]:
            axes.set_yscale("log")
        if dots:
            axes.plot(*zip(*dots, strict=True), "o", color=ORANGE, label="held out, before and after")
            axes.legend(frameon=False, fontsize=10, handlelength=1.2)

    ends = [f"{values[0][1]:.3g} to {values[-1][1]:.3g}" if values else "" for values in (known, dots)]
    told = f"{title} of {of}: {ends[0] or 'none measured'}" + (f"; held out {ends[1]}" if dots else "")
    return drawn(of, title, told, x, draw)


def drawn(
    of: str, title: str, told: str, x: str, draw: Callable[[Axes], None], size: tuple[float, float] = _SIZE
) -> Chart:
    """What `draw` does to the axes. told: the same in words. size: in inches."""
    # Only here, because reports are imported by commands that draw nothing.
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    style: Any = {"svg.fonttype": "none", "svg.hashsalt": f"{of} {title}", "font.size": 11, "text.color": INK}
    style |= {"axes.labelcolor": QUIET, "axes.edgecolor": RULE, "grid.color": RULE}
    style |= {"xtick.labelcolor": QUIET, "ytick.labelcolor": QUIET}
    with rc_context(style):
        figure = Figure(figsize=size, layout="constrained")
        figure.patch.set_visible(False)
        axes = figure.add_subplot()
        axes.patch.set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
        draw(axes)
        axes.set_xlabel(x, loc="right")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        axes.tick_params(length=0)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return Chart(title, _for_a_page(text.getvalue(), told))


def thinned(points: Sequence[Point], most: int = MOST) -> list[tuple[float, float, float, float]]:
    """(place, mean, lowest, highest) of at most so many runs of points of one length; the place is the last one's."""
    stride = max(1, math.ceil(len(points) / most))
    runs = [points[start : start + stride] for start in range(0, len(points), stride)]
    values = [[value for _, value in run] for run in runs]
    return [(run[-1][0], fmean(of), min(of), max(of)) for run, of in zip(runs, values, strict=True)]


def _value(point: Point) -> float:
    return point[1]


def _for_a_page(svg: str, told: str) -> str:
    """The element without a size, ids, fonts and rules of its own, smaller, and in the page's colours."""
    box = re.search(r'viewBox="[^"]+"', svg)
    assert box is not None
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<style.*?</style>", "", svg[svg.index(">") + 1 :], flags=re.DOTALL)
    svg = re.sub(r"font(-family)?: [^;\"]*'[^;\"]*; ", "", svg)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg).replace("xlink:href", "href")
    # A tenth of a unit is less than is seen; not in what is written, though.
    svg = re.sub(r"<[^>]*>", lambda tag: re.sub(r"(\d\.\d)\d+", r"\1", tag[0]), svg)
    svg = re.sub(r"\s+", " ", svg).replace("> <", "><")
    for colour, name in _COLOURS.items():
        svg = svg.replace(colour, f"var(--{name})")
    return f'<svg {box[0]} role="img" aria-label="{html.escape(told)}">{svg.strip()}'
