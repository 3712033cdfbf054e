"""Held-out records found in training data: the same, or 13 words in a row (Brown et al. 2020, appendix C)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal, TypeVar

import numpy as np

from fettle.data.record import Record
from fettle.data.words import BREAK, GRAM, MOST_BYTES, grams_of

# A sequence that more records than this share is a phrase of the trade, not a leak (the same appendix).
COMMON = 10
_PAIRS = 5
_BATCH_CHARACTERS = MOST_BYTES // 4  # UTF-8 takes at most four bytes a character
_SHARED_CHARACTERS = 1000  # of neighbouring pieces of a long document, so that no sequence is cut
_SPACE = b" \t\n\r\x0b\x0c"

Place = tuple[Path, int]
T = TypeVar("T")


@dataclass(frozen=True)
class Pair:
    """A held-out record, and the first training record it was found in; each a file and a line."""

    train: Place
    heldout: Place
    how: Literal["equal", "near"]


@dataclass(frozen=True)
class Overlap:
    """What was found. records: held-out ones that were compared. equal: those that are training records too, case and
    white space aside. near: others with the same words as one, or 13 in a row. pairs: the first of both."""

    records: int
    equal: int
    near: int
    pairs: tuple[Pair, ...]

    def __str__(self) -> str:
        """How many, in which way, and the first pairs."""
        if not self.pairs:
            return f"none of {self.records:,} held-out records is in the training data"
        ways = {"the same": self.equal, "with 13 words in a row": self.near}
        told = ", ".join(f"{count:,} {way}" for way, count in ways.items() if count)
        shown = ", ".join(f"{p.train[0].name}:{p.train[1]} ↔ {p.heldout[0].name}:{p.heldout[1]}" for p in self.pairs)
        found = self.equal + self.near
        more = ", …" if found > len(self.pairs) else ""
        return f"{found:,} of {self.records:,} held-out records are in the training data ({told}): {shown}{more}"


class Heldout:
    """Held-out records, all seen first, with which training records that pass by are then compared.

    Compared are documents and what users and assistants say, not system prompts or what tools return. A sequence does
    not go on from one turn into the next: it would join a stock answer to what many questions end with. One in more
    than ten training records, or in more than ten held-out ones, counts for nothing, nor does one that overlaps it in
    the same record. Holds some 150 bytes for each held-out word and 300 for each record; of the training data a batch.
    """

    def __init__(self) -> None:
        self._records: list[Place] = []
        self._by_text: dict[int, list[int]] = {}
        self._by_words: dict[int, list[int]] = {}
        self._equal: dict[int, Place] = {}
        self._same_words: dict[int, Place] = {}
        self._held: _Batch[int] = _Batch()
        self._passing: _Batch[Place] = _Batch()
        self._grams: list[tuple[np.ndarray, np.ndarray]] = []
        self._index: _Index | None = None

    def hold(self, record: Record) -> None:
        """Adds a held-out record."""
        assert self._index is None, "held-out records come first"
        if text := compared(record):
            number = len(self._records)
            self._records.append((record.file, record.line))
            self._by_text.setdefault(hash(folded(text)), []).append(number)
            for texts, numbers in self._held.add(text, number):
                self._add(texts, numbers)

    def look(self, record: Record) -> None:
        """Compares a training record."""
        index = self._indexed()
        if text := compared(record):
            place = (record.file, record.line)
            for number in self._by_text.get(hash(folded(text)), ()):
                self._equal.setdefault(number, place)
            for texts, places in self._passing.add(text, place):
                self._compare(index, texts, places)

    def found(self) -> Overlap:
        """What the training records had in common with the held-out ones."""
        index = self._indexed()
        self._compare(index, *self._passing.take())
        near = index.found() | self._same_words
        pairs = [
            Pair(self._equal[number], place, "equal") if number in self._equal else Pair(near[number], place, "near")
            for number, place in enumerate(self._records)
            if number in self._equal or number in near
        ]
        return Overlap(len(self._records), len(self._equal), len(pairs) - len(self._equal), tuple(pairs[:_PAIRS]))

    def _add(self, texts: list[str], numbers: list[int]) -> None:
        hashes, owners, wholes = grams_of(texts)
        self._grams.append((hashes, np.asarray(numbers, dtype=np.int64)[owners]))
        for number, whole in zip(numbers, wholes.tolist(), strict=True):
            if whole:
                self._by_words.setdefault(whole, []).append(number)

    def _compare(self, index: _Index, texts: list[str], places: list[Place]) -> None:
        hashes, owners, wholes = grams_of(texts)
        index.look(hashes, owners, places)
        for place, whole in zip(places, wholes.tolist(), strict=True):
            for number in self._by_words.get(whole, ()):
                self._same_words.setdefault(number, place)

    def _indexed(self) -> _Index:
        if self._index is None:
            self._add(*self._held.take())
            hashes, numbers = (np.concatenate(arrays) for arrays in zip(*self._grams, strict=True))
            self._index, self._grams = _Index(hashes, numbers), []
        return self._index


def compared(record: Record) -> str:
    """What of a record must not be in another: a document, or what users and assistants say, a break between turns."""
    if record.text is not None:
        return record.text
    turns = record.messages or (record.prompt.turns if record.prompt is not None else ())
    said = [turn.content for turn in turns if turn.role in ("user", "assistant")]
    if record.completion is not None:
        said.append(record.completion)
    for answer in record.answers:
        said += [turn.content for turn in answer.turns if turn.role == "assistant"]
    return BREAK.join([*said, *record.steps])


def folded(text: str) -> bytes:
    """The text without case and white space."""
    return text.lower().encode("utf-8", "surrogatepass").translate(None, _SPACE)


class _Batch(Generic[T]):
    """Texts, each with whose it is, until they are enough to be taken apart together."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._whose: list[T] = []
        self._size = 0

    def add(self, text: str, whose: T) -> list[tuple[list[str], list[T]]]:
        """The batches that became full: none mostly, several for a long document, which is added in pieces."""
        full = []
        step = _BATCH_CHARACTERS - 1 - _SHARED_CHARACTERS
        for start in range(0, max(1, len(text) - _SHARED_CHARACTERS), step):
            piece = text[start : start + step + _SHARED_CHARACTERS]
            if self._size + len(piece) + 1 > _BATCH_CHARACTERS:
                full.append(self.take())
            self._texts.append(piece)
            self._whose.append(whose)
            self._size += len(piece) + 1
        return full

    def take(self) -> tuple[list[str], list[T]]:
        """What has been added since."""
        taken = self._texts, self._whose
        self._texts, self._whose, self._size = [], [], 0
        return taken


class _Index:
    """The held-out sequences: where each is, in how many training records it was seen, and in which first.

    _hashes: [sequences], ascending. _order: [places], the sequence at each place, record after record; _records:
    [places], the record it is in. _maybe: True at the leading bits of each hash, so that most words of the training
    data cost one look into a small table. _first: [sequences, 2], file and line.
    """

    def __init__(self, hashes: np.ndarray, numbers: np.ndarray) -> None:
        self._hashes, self._order = np.unique(hashes, return_inverse=True)
        self._records = numbers
        bits = min(28, max(10, (16 * len(self._hashes)).bit_length()))
        self._shift = np.uint64(64 - bits)
        self._maybe = np.zeros(1 << bits, dtype=bool)
        self._maybe[self._hashes >> self._shift] = True
        self._seen = np.zeros(len(self._hashes), dtype=np.int64)
        self._first = np.zeros((len(self._hashes), 2), dtype=np.int64)
        self._files: dict[Path, int] = {}

    def look(self, hashes: np.ndarray, owners: np.ndarray, places: list[Place]) -> None:
        """Counts the sequences that are in training texts too; owners: which of the places each hash is of."""
        maybe = np.flatnonzero(self._maybe[hashes >> self._shift])
        at = np.searchsorted(self._hashes, hashes[maybe])
        at[at == len(self._hashes)] = 0
        is_there = (self._hashes[at] == hashes[maybe]) & (self._seen[at] <= COMMON)
        if not is_there.any():
            return
        found = np.unique(at[is_there] * len(places) + owners[maybe[is_there]])  # a text has a sequence once
        at, firsts, counts = np.unique(found // len(places), return_index=True, return_counts=True)
        new = self._seen[at] == 0
        for one, owner in zip(at[new].tolist(), (found[firsts[new]] % len(places)).tolist(), strict=True):
            file, line = places[owner]
            self._first[one] = self._files.setdefault(file, len(self._files)), line
        self._seen[at] += counts

    def found(self) -> dict[int, Place]:
        """Held-out record → the first training record that has one of its sequences."""
        is_common = (self._seen > COMMON) | (self._num_records() > COMMON)
        counts = (self._seen > 0)[self._order] & ~self._touched(np.flatnonzero(is_common[self._order]))
        files = list(self._files)
        found: dict[int, tuple[int, int]] = {}
        firsts = self._first[self._order[counts]].tolist()
        for number, (file, line) in zip(self._records[counts].tolist(), firsts, strict=True):
            found[number] = min(found.get(number, (file, line)), (file, line))
        return {number: (files[file], line) for number, (file, line) in found.items()}

    def _num_records(self) -> np.ndarray:
        """[sequences]: how many held-out records each is in."""
        places = np.lexsort((self._records, self._order))
        order, records = self._order[places], self._records[places]
        is_new = np.ones(len(order), dtype=bool)
        is_new[1:] = (order[1:] != order[:-1]) | (records[1:] != records[:-1])
        return np.bincount(order[is_new], minlength=len(self._hashes))

    def _touched(self, common: np.ndarray) -> np.ndarray:
        """bool [places]: whether a word of the sequence there is one of a common sequence, at the places `common`.

        The end of a template and the first word after it are in fewer records than the template is.
        """
        starts = np.searchsorted(self._records, self._records[common])
        ends = np.searchsorted(self._records, self._records[common], side="right")
        steps = np.zeros(len(self._order) + 1, dtype=np.int64)
        np.add.at(steps, np.maximum(common - (GRAM - 1), starts), 1)
        np.subtract.at(steps, np.minimum(common + GRAM, ends), 1)
        return np.cumsum(steps[:-1]) > 0
