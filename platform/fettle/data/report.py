"""What a check of data found: by file, in training and held-out data together, and the mistakes."""

from __future__ import annotations

import textwrap
from array import array
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fettle.data.overlap import Overlap
from fettle.data.record import RecordKind
from fettle.errors import UserError

if TYPE_CHECKING:  # transformers takes seconds to import, and a check without a base needs none of it
    from fettle.data.encode import Counts

SHOWN = 5


@dataclass(frozen=True)
class Finding:
    """What is odd about some records of a file: how many they are, the first one's line, and more about that one."""

    what: str
    count: int
    line: int | None = None
    more: str = ""

    def __str__(self) -> str:
        """`what (how many, first in line N: more)`."""
        many = _counted(self.count, "record")
        first = f", first in line {self.line}" if self.line is not None else ""
        return f"{self.what} ({many}{first}{': ' if self.more else ''}{self.more})"


@dataclass(frozen=True)
class Balance:
    """How records divide. labels: of a classification, or `good` and `bad` of unpaired answers or of steps, each with
    its number. answers: of preferences, the number of answers to a prompt → that of records."""

    labels: dict[str, int] = field(default_factory=dict)
    answers: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Lengths:
    """Tokens of a file's records as they would be uncut: mean, median, 95th percentile, and the longest."""

    mean: float
    p50: int
    p95: int
    longest: int

    @classmethod
    def of(cls, lengths: array[int]) -> Lengths | None:
        """Of some records; None of none."""
        if not lengths:
            return None
        found = np.sort(np.frombuffer(lengths, np.uint32))
        p50, p95 = (int(found[int(share * (len(found) - 1))]) for share in (0.5, 0.95))
        return cls(round(float(found.mean()), 1), p50, p95, int(found[-1]))


@dataclass(frozen=True)
class FileReport:
    """What was found in one file. bytes: as it lies on disk. is_sampled: not all of its records were read.

    columns: those that are read, ignored: the others, why: what decided the format. skipped: bad records, left out on
    demand. counts, lengths: of the encoded records, None where no tokenizer was given.
    """

    file: Path
    format: str
    why: str
    columns: tuple[str, ...]
    ignored: tuple[str, ...]
    records: int
    kinds: dict[RecordKind, int]
    bytes: int
    is_sampled: bool
    duplicates: int
    skipped: int
    balance: Balance
    warnings: tuple[Finding, ...]
    counts: Counts | None = None
    lengths: Lengths | None = None


class Mistakes:
    """Mistakes by the file they are in: the first few of each, and how many there are."""

    def __init__(self) -> None:
        self.count = 0
        self._files: dict[str, tuple[list[UserError], int]] = {}

    @property
    def first(self) -> list[UserError]:
        """The first five of each of the first five files, in the order found."""
        return [error for first, _ in list(self._files.values())[:SHOWN] for error in first]

    def add(self, error: UserError) -> None:
        self.count += 1
        first, count = self._files.get(str(error.file), ([], 0))
        if len(first) < SHOWN:
            first.append(error)
        self._files[str(error.file)] = first, count + 1

    def raise_all(self) -> None:
        """Raises the UserError there is, or one that tells of each file the first five and how many there are."""
        if self.count == 1:
            raise self.first[0]
        if not self.count:
            return
        told = [_of_file(file, first, count) for file, (first, count) in list(self._files.items())[:SHOWN]]
        if len(self._files) == 1:
            raise UserError(told[0].removeprefix(f"{self.first[0].file}: "), file=self.first[0].file)
        more = list(self._files.values())[SHOWN:]
        if more:
            told.append(f"… and {sum(count for _, count in more):,} in {_counted(len(more), 'more file')}")
        got = f"{self.count:,} mistakes in {len(self._files):,} files"
        raise UserError("\n".join([got, *(textwrap.indent(one, "  ") for one in told)]))


@dataclass(frozen=True)
class DataReport:
    """What was found in all files. overlap: what held-out and training data share, where there is held-out data."""

    files: tuple[FileReport, ...]
    warnings: tuple[str, ...]
    mistakes: Mistakes
    overlap: Overlap | None = None

    def raise_mistakes(self) -> None:
        """As `Mistakes.raise_all`."""
        self.mistakes.raise_all()

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values, with the keys that docs/data.md lists."""
        return {
            "files": [_plain(asdict(report)) for report in self.files],
            "overlap": _plain(asdict(self.overlap)) if self.overlap else None,
            "warnings": list(self.warnings),
            "errors": [mistake.render() for mistake in self.mistakes.first],
            "num_errors": self.mistakes.count,
        }


def _of_file(file: str, first: Sequence[UserError], count: int) -> str:
    if count == 1:
        return first[0].render()
    told = [error.render() for error in first] + ([f"… and {count - len(first):,} more"] if count > len(first) else [])
    return f"{file}: {count:,} mistakes\n" + textwrap.indent("\n".join(told), "  ")


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' if number > 1 else ''}"


def _plain(value: Any) -> Any:
    """Paths as text, all the way down."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
