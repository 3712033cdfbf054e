"""A stage's progress as a file of JSON lines: workers append, the driver and the report read."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

PROGRESS = "progress.jsonl"
"""What the file is called, in its stage's folder."""


@dataclass(frozen=True)
class StepRow:
    """One optimizer step. loss: nats per loss-bearing token. seconds: since this attempt's training began. reward: of
    the answers it learned from, where these were rewarded."""

    step: int
    steps: int
    loss: float
    lr: float
    grad_norm: float
    tokens: int
    loss_tokens: int
    seconds: float
    time: float
    reward: float | None = None


class ProgressWriter:
    """Appends rows; only rank 0 has one."""

    def __init__(self, file: Path) -> None:
        cut_torn_line(file)
        self.file = file
        self.start_clock()

    def start_clock(self) -> None:
        """Rows' `seconds` count from here."""
        self.began = time.monotonic()

    def write(self, **row: float | None) -> None:
        """Appends one StepRow; `seconds` and `time` are filled in."""
        filled = StepRow(seconds=time.monotonic() - self.began, time=time.time(), **row)  # type: ignore[arg-type]
        with open(self.file, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(asdict(filled)) + "\n")


def cut_torn_line(file: Path) -> None:
    """Makes the file of lines, and its folder, if need be; an earlier attempt may have died in its last line."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "ab+") as stream:
        stream.seek(0)
        stream.truncate(stream.read().rfind(b"\n") + 1)


def read_progress(file: Path, start: int = 0) -> tuple[list[StepRow], int]:
    """(rows from byte `start` on, where to go on reading); a line still being written is left for the next time."""
    try:
        with open(file, "rb") as stream:
            stream.seek(start)
            text = stream.read()
    except FileNotFoundError:
        return [], start
    whole = text[: text.rfind(b"\n") + 1]
    return [StepRow(**json.loads(line)) for line in whole.splitlines()], start + len(whole)


def curve(file: Path) -> list[StepRow]:
    """One row a step, in order; where an interrupted run repeated steps, the last writing counts."""
    rows, _ = read_progress(file)
    return [row for _, row in sorted({row.step: row for row in rows}.items())]
