"""The flight recorder: a row of figures for each iteration, as a file of JSON lines beside the stage's other files."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from fettle.errors import UserError
from fettle.train.progress import cut_torn_line

ITERATIONS = "iterations.jsonl"
"""The file's name in a stage's folder."""
PHASES = ("generate", "score", "reference", "learn", "sync")


@dataclass(frozen=True)
class Sample:
    """A rollout word for word. version: of the weights it was sampled with. tokens: loss-bearing."""

    prompt: str
    completion: str
    reward: float
    parts: dict[str, float]
    finish: str
    version: int
    tokens: int


@dataclass(frozen=True)
class IterationRow:
    """One iteration. What could not be worked out is NaN, as the divergence is where no reference is asked.

    iteration: from 0. version: of the weights that learned. oldest_version: the oldest that any rollout came from.
    seconds: of the whole iteration. phases: seconds of generate, score, reference, learn, sync and wait; where sampler
    and learner run side by side they add up to more. tokens: loss-bearing. tokens_per_second: generated ones, in a
    second of the iteration.

    lengths: mean, min and max of the answers' tokens, truncated = share that was broken off. reward: mean. parts,
    judges: mean of each reward, and of those that are only watched. alike: share of the groups whose answers were all
    rewarded alike, from 0 to 1; where a prompt has one answer, the iteration is one group. repetition: share of n-grams
    that were there before, mean.

    kl: token, answer = mean divergence from the reference in nats, coef = its weight. entropy: nats a token.
    clip_fraction: share of tokens. ratio: mean, std, max of learner's probability / sampler's. gap: mean, max of
    |sampler's log-probability − learner's|, in nats a token. probe: the largest such difference on the fixed prompts,
    at the sync. value_loss: None without a critic.
    """

    iteration: int
    version: int
    oldest_version: int
    seconds: float
    phases: dict[str, float]
    tokens: int
    tokens_per_second: float
    lengths: dict[str, float]
    reward: float
    parts: dict[str, float]
    judges: dict[str, float]
    alike: float
    repetition: float
    kl: dict[str, float]
    entropy: float
    clip_fraction: float
    ratio: dict[str, float]
    gap: dict[str, float]
    probe: float
    grad_norm: float
    loss: float
    value_loss: float | None
    alarms: list[str]
    samples: list[Sample]


class Recorder:
    """Appends rows; only one process has one."""

    def __init__(self, file: Path) -> None:
        cut_torn_line(file)
        self.file = file

    def write(self, row: IterationRow) -> None:
        """Appends the row, whole or as much as was written when the process died."""
        # JSON has no NaN, which is null here, so that what is None has to be left out.
        told = {key: _strict(value) for key, value in asdict(row).items() if value is not None}
        line = json.dumps(told, allow_nan=False) + "\n"
        with open(self.file, "a", encoding="utf-8") as stream:
            stream.write(line)


def read_rows(file: Path) -> list[IterationRow]:
    """One row an iteration, in order; none where there is no file. A line still being written is not read.

    A row takes the place of those of its own and later iterations that were written before it: an interrupted run wrote
    them, and the resumed one has not come so far. Infinite numbers are read as NaN. Raises UserError at a line that is
    no row.
    """
    try:
        text = file.read_bytes()
    except FileNotFoundError:
        return []
    rows: list[IterationRow] = []
    for number, line in enumerate(text[: text.rfind(b"\n") + 1].splitlines(), start=1):
        row = _row(line, file, number)
        while rows and rows[-1].iteration >= row.iteration:
            rows.pop()
        rows.append(row)
    return rows


def summary(rows: Sequence[IterationRow]) -> dict[str, Any]:
    """What report.json says of a run of at least one iteration; None where no iteration had a finite figure.

    reward: first, last (means over the first and the last tenth of the iterations). kl: of an answer, in nats, mean
    over the last tenth. gap: mean, and the largest of any token. phases: seconds of each, summed. iterations: how many.
    """
    tenth = max(1, len(rows) // 10)
    return {
        "iterations": len(rows),
        "reward": {"first": _mean(r.reward for r in rows[:tenth]), "last": _mean(r.reward for r in rows[-tenth:])},
        "kl": _mean(row.kl["answer"] for row in rows[-tenth:]),
        "gap": {
            "mean": _mean(row.gap["mean"] for row in rows),
            "max": max((row.gap["max"] for row in rows if math.isfinite(row.gap["max"])), default=None),
        },
        "phases": {name: round(math.fsum(row.phases.get(name, 0.0) for row in rows), 3) for name in PHASES},
    }


def _row(line: bytes, file: Path, number: int) -> IterationRow:
    try:
        told = {"value_loss": None} | _with_nan(json.loads(line))
        told["samples"] = [Sample(**one) for one in told["samples"]]
        return IterationRow(**told)
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"not an iteration's row ({error})",
            file=file,
            line=number,
            expected="rows written by this version of fettle",
        ) from None


def _strict(value: Any) -> Any:
    """The same without NaN and infinities, which are None."""
    if isinstance(value, dict):
        return {key: _strict(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_strict(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _with_nan(value: Any) -> Any:
    """The same with NaN for None."""
    if isinstance(value, dict):
        return {key: _with_nan(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_with_nan(one) for one in value]
    return math.nan if value is None else value


def _mean(values: Iterable[float]) -> float | None:
    finite = [value for value in values if math.isfinite(value)]
    return fmean(finite) if finite else None
