"""A run's stages as a graph: what each was made from, and how that is drawn beside a list of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fettle.pipeline.origin import Origin
from fettle.pipeline.planned import Planned, PlannedMerge, PlannedRl, PlannedStage

ROW = 88
"""A row's height, in sixteenths of the page's font size, as all lengths of a drawing."""
_LANE, _LANES, _MARGIN, _TURN = 18, 72, 10, 22  # many lines lie closer together: a phone has room for names, too
_DOT_Y = 20
_DOT = 6
_GOES_ON = ("from", "merged")


@dataclass(frozen=True)
class Edge:
    """A stage was made from another, or from a model from elsewhere, of which this is the name. role: `from`, `merged`,
    `teacher`, `reward` or `critic`."""

    parent: str
    child: str
    role: str


@dataclass(frozen=True)
class Line:
    """An SVG path between two rows. is_side: of a model that only judges or teaches."""

    path: str
    is_side: bool


@dataclass(frozen=True)
class Drawing:
    """names: of the rows, from the top: every stage, and before it the models from elsewhere that it is the first to
    need. dots: where each row's dot is, and lines from those."""

    names: tuple[str, ...]
    width: int
    dots: tuple[tuple[int, int], ...]
    lines: tuple[Line, ...]


def edges_of(stages: Sequence[Planned]) -> tuple[Edge, ...]:
    """Every edge, in the order of the stages."""
    names = {stage.artifact: stage.spec.name for stage in stages}

    def called(folder: Path) -> str:
        return names.get(folder) or _outside(folder, taken=set(names.values()))

    found = [Edge(called(folder), stage.spec.name, role) for stage in stages for folder, role in _parents(stage)]
    return tuple(dict.fromkeys(found))


def made_from(stage: str, edges: Sequence[Edge]) -> str:
    """In words, as `from instruct · reward, critic taste`."""
    roles: dict[str, list[str]] = {}
    for edge in edges:
        if edge.child == stage:
            roles.setdefault(edge.parent, []).append(edge.role)
    return " · ".join(f"{', '.join(of)} {parent}" for parent, of in roles.items())


def drawing(stages: Sequence[str], edges: Sequence[Edge]) -> Drawing:
    """The graph of these stages. Lines between neighbours are straight, longer ones lie beside them, none on another
    that it has no end in common with."""
    names = list[str]()
    for stage in stages:
        names += [edge.parent for edge in edges if edge.child == stage and edge.parent not in (*names, *stages)]
        names.append(stage)
    pairs = dict[tuple[int, int], bool]()  # of rows: whether any of its edges is what the stage goes on from
    for edge in edges:
        pair = names.index(edge.parent), names.index(edge.child)
        pairs[pair] = pairs.get(pair, False) or edge.role in _GOES_ON
    lanes = _lanes([pair for pair in pairs if pair[1] - pair[0] > 1])
    count = max(lanes.values(), default=-1) + 1
    apart = min(_LANE, _LANES // max(1, count))
    x = _MARGIN + (_LANE + apart * (count - 1) if count else 0)
    dots = tuple((x, row * ROW + _DOT_Y) for row in range(len(names)))
    at = {pair: x - _LANE - apart * lane for pair, lane in lanes.items()}
    lines = [
        Line(_path(dots[first], dots[last], at.get((first, last), x)), not goes_on)
        for (first, last), goes_on in pairs.items()
    ]
    return Drawing(tuple(names), x + _MARGIN, dots, tuple(lines))


def _lanes(pairs: Sequence[tuple[int, int]]) -> dict[tuple[int, int], int]:
    """The nearest lane that is free over all of a line's rows, the shortest line first."""
    found = dict[tuple[int, int], int]()
    for first, last in sorted(pairs, key=lambda pair: (pair[1] - pair[0], pair)):
        taken = {lane for (top, bottom), lane in found.items() if first < bottom and top < last}
        found[first, last] = next(lane for lane in range(len(pairs)) if lane not in taken)
    return found


def _path(start: tuple[int, int], end: tuple[int, int], lane: int) -> str:
    (x, top), (_, bottom) = start, end
    if lane == x:
        return f"M{x} {top + _DOT}V{bottom - _DOT - 5}"
    down = f"Q{lane} {top} {lane} {top + _TURN}V{bottom - _TURN}Q{lane} {bottom} {x - _DOT - 5} {bottom}"
    return f"M{x - _DOT} {top}{down}"


def _parents(stage: Planned) -> Iterator[tuple[Path, str]]:
    if isinstance(stage, PlannedMerge) and len(stage.adapters) > 1:
        for folder, _ in stage.adapters:
            yield folder, "merged"
    else:
        yield _folder(stage.origin), "from"
    if isinstance(stage, PlannedStage) and stage.teacher is not None:
        yield _folder(stage.teacher), "teacher"
    if isinstance(stage, PlannedRl):
        for _, folder in stage.models:
            yield folder, "reward"
        if stage.critic is not None:
            yield stage.critic, "critic"


def _folder(origin: Origin) -> Path:
    return origin.adapter or origin.base


def _outside(folder: Path, taken: set[str]) -> str:
    """What a model from elsewhere is called: its folder's name, or its id on a hub."""
    if folder.parent.name == "snapshots":
        return folder.parents[1].name.removeprefix("models--").replace("--", "/")
    return folder.name if folder.name not in taken else str(folder)
