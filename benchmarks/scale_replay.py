"""The simulator against measured runs that it was not fitted on.

    python benchmarks/scale_replay.py [benchmarks/results/phases-DATE.json]

Fitted on one engine in turns with the learner, with all the answers and with half of them, and on one worker: of these
it takes the phases, and what a token costs an engine. Predicted: the same with answers made ahead, with two engines,
and two workers. Of everything the quickest fifth counts, measured and predicted, since what else a machine does only
adds; the first two iterations of a stage, and the first five steps, are a warm-up.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from house_format import ROOT, row, write_results
from scale_costs import Decoding
from scale_simulator import Iteration, Setting, simulate

WARM_UP, WARM_UP_STEPS = 2, 5
# Of results/rl-2026-11-29.json, on a quiet machine: generate, learn and the rest of an iteration in turns, and what one
# took with answers made ahead.
QUIET = {"small": (0.94, 2.89, 0.12, 2.838), "ragged": (4.66, 13.45, 0.15, 12.303)}
_ONCE = ("publish", "sync", "score", "reference", "learn")


def newest() -> Path:
    """The trace that `scale_measure.py` wrote last."""
    return max((ROOT / "benchmarks" / "results").glob("phases-*.json"))


def quick(seconds: Iterable[float]) -> float:
    """The mean of the quickest fifth."""
    found = sorted(seconds)
    return statistics.fmean(found[: max(1, len(found) // 5)])


def iterations(trace: dict[str, Any], *names: str) -> list[dict[str, Any]]:
    """Of some stages, without the warm-up and the last one, beside which nothing is made; `lengths` as numbers."""
    found = []
    for name in names:
        for one in trace["stages"][name]["iterations"][WARM_UP:-1]:
            found.append(one | {"lengths": [list(map(int, of.split())) for of in one["lengths"]]})
    return found


def decoding_of(*measured: Sequence[dict[str, Any]]) -> Decoding:
    """An engine's step, from runs of different sizes: `fixed`, as often as the longest answer has tokens, and `each`
    for every token."""
    wanted, seconds = [], []
    for run in measured:
        quickest = sorted(run, key=lambda one: one["phases"]["generate"])[: max(1, len(run) // 5)]
        for one in quickest:
            tokens = [n for of in one["lengths"] for n in of]
            wanted.append([max(tokens), sum(tokens)])
            seconds.append(one["phases"]["generate"])
    fixed, each = np.linalg.lstsq(np.array(wanted, float), np.array(seconds), rcond=None)[0]
    return Decoding(float(fixed), float(each))


def usual(measured: Sequence[dict[str, Any]]) -> Iteration:
    """Each phase; `other`: what none of them is."""
    phases = {name: quick(one["phases"][name] for one in measured) for name in _ONCE}
    rest = quick(one["seconds"] - sum(one["phases"][name] for name in (*_ONCE, "generate")) for one in measured)
    return Iteration(**phases, other=max(0.0, rest))


def predicted(usually: Iteration, like: Sequence[dict[str, Any]], setting: Setting) -> float:
    """Seconds of an iteration with answers as long as these."""
    once = {name: getattr(usually, name) for name in (*_ONCE, "other")}
    work = [Iteration(**once, lengths=one["lengths"]) for one in like]
    return quick(simulate(work, setting).periods[1:-1])


def step_seconds(trace: dict[str, Any], name: str) -> float:
    """A step of a stage."""
    return quick(one["seconds"] for one in trace["stages"][name]["steps"][WARM_UP_STEPS:])


def compared(trace: dict[str, Any]) -> list[tuple[str, float, float, list[float]]]:
    """(what, predicted seconds, measured seconds, those of each time) of every setting, the fitted one first."""
    turns = iterations(trace, "turns-a", "turns-b")
    decoding, usually = decoding_of(turns, iterations(trace, "half-a")), usual(turns)
    settings = {
        "turns": ("fitted: one engine, in turns with the learner", Setting(1, 0, decoding.seconds)),
        "ahead": ("one engine, answers made an iteration ahead", Setting(1, 1, decoding.seconds)),
        "pair": ("two engines, in turns with the learner", Setting(2, 0, decoding.seconds)),
    }
    found = []
    for of, (what, setting) in settings.items():
        names = [name for name in trace["stages"] if name.startswith(f"{of}-")]
        there = iterations(trace, *names)
        each = [quick(one["seconds"] for one in iterations(trace, name)) for name in names]
        ours = predicted(usually, there, setting)
        found.append((what, ours, quick(one["seconds"] for one in there), each))
    for of, (generate, learn, rest, ahead) in QUIET.items():
        work = [Iteration(learn=learn, other=rest, lengths=[[1]])] * 10
        told = simulate(work, Setting(1, 1, lambda _, took=generate: took))  # type: ignore[misc]
        found.append((f"{of}, on a quiet machine: answers made an iteration ahead", told.periods[5], ahead, [ahead]))
    one, engine = (step_seconds(trace, f"{of}-a") for of in ("one", "engine"))
    both = step_seconds(trace, "both-a")
    two = one / 2 + (engine - one) + trace["collective_s"]
    found.append(("two workers at ZeRO 2, a step", two, both, [both]))
    return found


def main() -> None:
    trace = json.loads((Path(sys.argv[1]) if len(sys.argv) > 1 else newest()).read_text())
    rows = []
    print("| | predicted, s | measured, s (each time) | error |\n|---|---|---|---|")
    for what, ours, theirs, each in compared(trace):
        times = ", ".join(f"{one:.3f}" for one in each)
        print(f"| {what} | {ours:.3f} | {theirs:.3f} ({times}) | {ours / theirs - 1:+.1%} |")
        rows.append(row(f"{what}: predicted", "s", ours, "measured", theirs, theirs / ours, limit=True))
    write_results("scale_replay", rows, "2 cores, 1 thread a process")


if __name__ == "__main__":
    main()
