"""Where each line of a text file begins, so that any of them is read alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from fettle.data.files import suffix_of
from fettle.errors import UserError
from fettle.recipe.data import DataSpec

_CHUNK_BYTES = 8 << 20
_END, _RETURN = ord("\n"), ord("\r")


@dataclass(frozen=True)
class StreamedSource:
    """What a worker needs to know of a source. indexes: the folder of each file's LineIndex."""

    spec: DataSpec
    files: tuple[Path, ...]
    indexes: tuple[Path, ...]


class LineIndex:
    """The lines of a file that are not empty, by position, as `fill_index` found them."""

    def __init__(self, file: Path, folder: Path) -> None:
        self.file = file
        self._starts = np.asarray(np.memmap(folder / "starts.bin", np.uint64, mode="r"))
        self._empty = np.fromfile(folder / "empty.bin", np.uint64)
        if file.stat().st_size != self._starts[-1]:
            raise UserError("the file has changed since the run began", file=file, fix="begin the run again")

    def __len__(self) -> int:
        return len(self._starts) - 1

    def sizes(self, positions: np.ndarray) -> np.ndarray:
        """Bytes of these lines, int64."""
        return (self._starts[positions + 1] - self._starts[positions]).astype(np.int64)

    def starts_before(self, offset: int) -> int:
        """How many of the lines begin before this byte."""
        return int(np.searchsorted(self._starts[:-1], offset))

    def read(self, positions: np.ndarray) -> Iterator[tuple[int, int, bytes]]:
        """(number from 1, offset, bytes) of each of these lines."""
        numbers = positions + 1 + np.searchsorted(self._empty, positions, side="right")
        with open(self.file, "rb") as stream:
            for number, position in zip(numbers.tolist(), positions.tolist(), strict=True):
                begin, end = self._starts[position : position + 2].tolist()
                stream.seek(begin)
                yield number, begin, stream.read(end - begin)


def check_indexable(files: Iterable[Path], spec: DataSpec, field: str) -> None:
    """Raises UserError unless each record of the files is a line of one."""
    expected = "unpacked .jsonl files, or .txt files with split: lines"
    for file in files:
        is_lines = suffix_of(file) == ".jsonl" or (suffix_of(file) == ".txt" and spec.split == "lines")
        if not is_lines or file.suffix.lower() == ".gz":
            got = "a file of this kind cannot be streamed"
            fix = "unpack it" if is_lines else "convert it to .jsonl, or leave streaming out"
            raise UserError(got, file=file, field=field, expected=expected, fix=fix)
    if "\n".encode(spec.encoding) != b"\n":
        got, fix = f"{spec.encoding} text cannot be streamed", f"iconv -f {spec.encoding} -t UTF-8 OLD > NEW"
        raise UserError(got, field=field, expected="UTF-8", fix=fix)


def fill_index(folder: Path, file: Path) -> None:
    """Writes a LineIndex into an empty folder: the offset of each line that is not empty, then the file's size; and for
    each empty line how many of the others come before it."""
    place = count = 0
    rest = b""
    with (
        open(file, "rb") as stream,
        open(folder / "starts.bin", "wb") as starts,
        open(folder / "empty.bin", "wb") as gaps,
    ):
        while chunk := stream.read(_CHUNK_BYTES):
            block = rest + chunk
            rest = block[block.rfind(b"\n") + 1 :]
            count += _write_lines(block[: len(block) - len(rest)], place, count, starts, gaps)
            place += len(block) - len(rest)
        if rest:
            _write_lines(rest + b"\n", place, count, starts, gaps)
        starts.write(np.uint64(place + len(rest)).tobytes())


def _write_lines(block: bytes, place: int, count: int, starts: IO[bytes], gaps: IO[bytes]) -> int:
    """Writes down the lines of a block of whole lines, and returns how many are not empty."""
    marks = np.frombuffer(block, np.uint8)
    ends = np.flatnonzero(marks == _END)
    begins = np.concatenate([np.zeros(min(1, len(ends)), np.int64), ends[:-1] + 1])
    is_empty = (ends == begins) | ((ends == begins + 1) & (marks[begins] == _RETURN))
    starts.write((begins[~is_empty] + place).astype(np.uint64).tobytes())
    before = np.cumsum(~is_empty)
    gaps.write((before[is_empty] + count).astype(np.uint64).tobytes())
    return int(before[-1]) if len(before) else 0
