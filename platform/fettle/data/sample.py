"""Some rows of a file, without reading it whole where that can be helped, each with its true line."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from fettle.data.files import suffix_of
from fettle.data.jsonl import read_line, refuse_other_kinds
from fettle.data.rows import Complaint, Row, complain, read_rows
from fettle.errors import UserError
from fettle.recipe.data import DataSpec

_SMALL = 32 << 20  # bytes that are read whole in a tenth of a second


def sample_rows(file: Path, spec: DataSpec, n: int, seed: int, on_error: Complaint = complain) -> Iterator[Row]:
    """`n` rows of the file, or all if there are fewer, in their order; the same for the same seed.

    Of a large plain .jsonl in UTF-8 they are the lines after random bytes: each line is as likely as the one before it
    is long, and a bad one counts for a row. Any other file is read whole, and each row is as likely as another.
    """
    draw = random.Random(seed)
    size = file.stat().st_size
    if size <= _SMALL or not _has_places(file, spec):
        yield from _reservoir(read_rows(file, spec, on_error), n, draw)
        return
    refuse_other_kinds(file, spec)
    with open(file, "rb") as stream:
        lines = _Lines(file, stream)
        for place in sorted(draw.randrange(size) for _ in range(n)):
            lines.go_to(place)
            if raw := stream.readline():
                yield from lines.rows_of(raw, on_error)


def _has_places(file: Path, spec: DataSpec) -> bool:
    """Whether a reader can begin in the middle of the file."""
    return suffix_of(file) == ".jsonl" and file.suffix.lower() != ".gz" and spec.encoding.lower() == "utf-8"


class _Lines:
    """Lines of an open file, counted also where they are passed over."""

    def __init__(self, file: Path, stream: IO[bytes]) -> None:
        self._file, self._stream, self._number = file, stream, 0

    def go_to(self, place: int) -> None:
        """To the first line that begins at `place` or after it; nowhere if that is passed already."""
        if place <= self._stream.tell():
            return
        while (left := place - 1 - self._stream.tell()) > 0:
            self._number += self._stream.read(min(left, 1 << 20)).count(b"\n")
        self._stream.readline()
        self._number += 1

    def rows_of(self, raw: bytes, on_error: Complaint) -> Iterator[Row]:
        """The row of the line just read, if there is one."""
        self._number += 1
        found = read_line(raw, self._file, self._number, self._stream.tell() - len(raw))
        if isinstance(found, UserError):
            on_error(found)
        elif found is not None:
            yield Row(self._file, self._number, found)


def _reservoir(rows: Iterator[Row], n: int, draw: random.Random) -> Iterator[Row]:
    kept: list[Row] = []
    for seen, row in enumerate(rows, 1):
        if len(kept) < n:
            kept.append(row)
        elif (place := draw.randrange(seen)) < n:
            kept[place] = row
    return iter(sorted(kept, key=lambda row: row.line))
