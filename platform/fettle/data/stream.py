"""A source whose records are read and encoded one by one when they are wanted, for sets that are too large to encode
beforehand."""

from __future__ import annotations

import codecs
from collections.abc import Collection, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from fettle.data.encode import Example, OnLong, encode
from fettle.data.files import decode, suffix_of
from fettle.data.formats import as_records, detect
from fettle.data.jsonl import read_line
from fettle.data.line_index import LineIndex, StreamedSource
from fettle.data.record import Record
from fettle.data.rows import Complaint, Row, read_rows
from fettle.data.tokens import content_hash
from fettle.errors import UserError
from fettle.recipe.data import DataSpec

_WINDOW_BYTES = 1 << 20
_FIRST_ROWS = 10


class Stream:
    """The records of a source as examples, by position.

    on_error: is told of each bad record when it is met, and raises, or returns to leave it out. without: hashes of
    examples to leave out. is_halved: see `encode`.
    """

    def __init__(
        self,
        source: StreamedSource,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_length: int,
        on_long: OnLong,
        on_error: Complaint,
        without: Collection[int] = (),
        is_halved: bool = False,
    ) -> None:
        self._spec, self._tokenizer, self._without = source.spec, tokenizer, frozenset(without)
        self._max_length, self._on_long, self._on_error = max_length, on_long, on_error
        self._is_halved = is_halved
        self._indexes = [LineIndex(file, folder) for file, folder in zip(source.files, source.indexes, strict=True)]
        self._firsts = np.cumsum([0, *(len(index) for index in self._indexes)])
        self._heads: dict[int, Row] = {}

    def __len__(self) -> int:
        whole = int(self._firsts[-1])
        return whole if self._spec.limit is None else min(whole, self._spec.limit)

    def take(self, positions: np.ndarray) -> list[list[Example]]:
        """The examples of each of the first of these records, a megabyte of them."""
        numbers = np.searchsorted(self._firsts, positions, side="right") - 1
        sizes = np.zeros(len(positions), np.int64)
        for number in np.unique(numbers):
            here = numbers == number
            sizes[here] = self._indexes[number].sizes(positions[here] - self._firsts[number])
        size = max(1, int(np.searchsorted(np.cumsum(sizes), _WINDOW_BYTES, side="right")))
        return self._examples(positions[:size], numbers[:size])

    def beginning(self, num_bytes: int) -> Iterator[Example]:
        """The examples of the records that begin within the first so many bytes of the source."""
        count, left = 0, num_bytes
        for index in self._indexes:
            count += index.starts_before(max(0, left))
            left -= index.file.stat().st_size
        place, end = 0, min(count, len(self))
        while place < end:
            found = self.take(np.arange(place, min(end, place + _FIRST_ROWS * 100)))
            yield from chain.from_iterable(found)
            place += len(found)

    def _examples(self, positions: np.ndarray, numbers: np.ndarray) -> list[list[Example]]:
        records: dict[int, Record] = {}  # by position, in the order wanted
        for number in np.unique(numbers).tolist():
            here = positions[numbers == number]
            records |= self._records(number, here)
        wanted = [records[position] for position in positions.tolist() if position in records]
        found: dict[tuple[Path, int], list[Example]] = {}
        how: dict[str, Any] = {"max_length": self._max_length, "on_long": self._on_long, "is_halved": self._is_halved}
        for example in encode(wanted, self._tokenizer, **how, must_learn=False):
            if not self._without or content_hash(example) not in self._without:
                found.setdefault((example.file, example.line), []).append(example)
        keys = ((records[p].file, records[p].line) if p in records else None for p in positions.tolist())
        return [found.get(key, []) if key else [] for key in keys]

    def _records(self, number: int, positions: np.ndarray) -> dict[int, Record]:
        """The records of one file at these positions of the source; bad and blank ones are left out."""
        index = self._indexes[number]
        head = self._heads.get(number) or self._heads.setdefault(number, _head(index.file, self._spec))
        at: dict[int, int] = {}

        def rows() -> Iterator[Row]:
            for position, (line, offset, raw) in zip(
                positions.tolist(), index.read(positions - self._firsts[number]), strict=True
            ):
                at[line] = position
                row = self._row(index.file, line, offset, raw)
                if row is not None:
                    yield row

        # The file's first row decides its format, so it comes first again; its record is not one of those wanted here.
        _, records = as_records(index.file, chain([head], rows()), self._spec, self._on_error)
        return {at[record.line]: record for record in records if record.line in at}

    def _row(self, file: Path, line: int, offset: int, raw: bytes) -> Row | None:
        read = _read_text if suffix_of(file) == ".txt" else read_line
        try:
            if codecs.lookup(self._spec.encoding).name != "utf-8":
                raw = raw.decode(self._spec.encoding).encode()
            found = read(raw, file, line, offset)
        except UnicodeDecodeError as error:
            got = f"not {error.encoding} text: byte 0x{raw[error.start]:02x} at offset {offset + error.start}"
            found = UserError(got, file=file, line=line, fix="see which `encoding` the file is in")
        if isinstance(found, UserError):
            self._on_error(found)
            return None
        return None if found is None else Row(file, line, found)


def _read_text(raw: bytes, file: Path, line: int, offset: int) -> dict[str, Any] | UserError | None:
    try:
        text = decode(raw, file, line, offset)
    except UserError as error:
        return error
    return {"text": text.rstrip("\r\n")} if text.strip() else None


def _head(file: Path, spec: DataSpec) -> Row:
    """The row that decides a file's format: of the first ten the first one that has any."""
    refused = []
    for row in islice(read_rows(file, spec, lambda error: None), _FIRST_ROWS):
        try:
            detect(row, spec)
        except UserError as error:
            refused.append(error)
        else:
            return row
    raise refused[0] if refused else UserError("no readable record", file=file)
