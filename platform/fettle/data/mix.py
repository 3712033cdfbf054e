"""Which example comes next: a deterministic shuffle of each source, interleaved by the sources' shares of tokens."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np

from fettle.errors import UserError

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
_WINDOW = 256


class Records(Protocol[T_co]):
    """A source of records, by position. A record gives an example, the parts of a long text, or none if it is blank."""

    def __len__(self) -> int: ...

    def take(self, positions: np.ndarray) -> Sequence[Sequence[T_co]]:
        """The examples of each of the first few of these records, at least of one."""
        ...


@dataclass(frozen=True)
class Cursor:
    """Where a mix stands, by source: passes done, records of this pass, parts of the record, tokens drawn in all."""

    passes: tuple[int, ...]
    records: tuple[int, ...]
    parts: tuple[int, ...]
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Step(Generic[T]):
    """What one optimizer step learns from, and where the mix stands after it."""

    examples: list[T]
    after: Cursor


class Mix(Generic[T]):
    """Examples for ever, the same ones for the same arguments, from the beginning or from a cursor of the same mix.

    Each source's records are shuffled anew on each of its passes; the parts of one follow one another. The next example
    comes from the source that is furthest behind its share of the tokens drawn so far. size: tokens of an example.
    Raises UserError where a whole pass over a source gives no example.
    """

    def __init__(
        self,
        sources: Sequence[Records[T]],
        weights: Sequence[float],
        seed: int,
        size: Callable[[T], int],
        cursor: Cursor | None = None,
    ) -> None:
        none = (0,) * len(sources)
        at = cursor or Cursor(none, none, none, none)
        self._walks = [
            _Walk(source, f"{seed}/{number}", at.passes[number], at.records[number], at.parts[number])
            for number, source in enumerate(sources)
        ]
        self._weights, self._tokens, self.size = weights, list(at.tokens), size
        self._number = self._furthest_behind()

    @property
    def cursor(self) -> Cursor:
        """Where the next example lies."""
        walks = self._walks
        return Cursor(
            tuple(walk.passes for walk in walks),
            tuple(walk.record for walk in walks),
            tuple(walk.part for walk in walks),
            tuple(self._tokens),
        )

    def peek(self) -> tuple[int, T]:
        """(the source's position, the example) that come next."""
        return self._number, self._walks[self._number].peek()

    def draw(self) -> T:
        """The next example, which is then behind us."""
        walk = self._walks[self._number]
        example = walk.peek()
        walk.part += 1
        self._tokens[self._number] += self.size(example)
        self._number = self._furthest_behind()
        return example

    def records_drawn(self) -> int:
        """Of the first source, in all its passes."""
        walk = self._walks[0]
        return walk.passes * len(walk.source) + walk.record + (walk.part > 0)

    def _furthest_behind(self) -> int:
        if len(self._walks) == 1:
            return 0
        progress = [tokens / weight for tokens, weight in zip(self._tokens, self._weights, strict=True)]
        return progress.index(min(progress))


def steps_of(
    mix: Mix[T], *, tokens: int | None, sequences: int | None, records: int | None = None
) -> Iterator[Step[T]]:
    """What each optimizer step learns from: examples, taken until they hold `tokens`, or `sequences` of them.

    Ends when so many records of the first source have been drawn since the mix began, or never (None). A step's
    examples depend neither on packing nor on the number of workers.
    """
    step: list[T] = []
    held = 0
    while True:
        number, example = mix.peek()
        if records is not None and number == 0 and mix.records_drawn() >= records:
            break
        size = mix.size(example)
        if step and (len(step) >= sequences if sequences is not None else held + size > (tokens or 0)):
            yield Step(step, mix.cursor)
            step, held = [], 0
        step.append(mix.draw())
        held += size
    if step:
        yield Step(step, mix.cursor)


class _Walk(Generic[T]):
    """Over one source's examples, pass after pass; `part` of the record is the next one."""

    def __init__(self, source: Records[T], seed: str, passes: int, record: int, part: int) -> None:
        self.source, self.passes, self.record, self.part = source, passes, record, part
        self._seed = seed
        self._order = self._shuffled()
        self._ahead: deque[Sequence[T]] = deque()
        self._is_blank = record == part == 0

    def peek(self) -> T:
        while True:
            if not self._ahead:
                if self.record == len(self._order):
                    self._next_pass()
                self._ahead.extend(self.source.take(self._order[self.record : self.record + _WINDOW]))
            if self.part < len(self._ahead[0]):
                self._is_blank = False
                return self._ahead[0][self.part]
            self._ahead.popleft()
            self.record, self.part = self.record + 1, 0

    def _next_pass(self) -> None:
        if self._is_blank:
            raise UserError("a source of this stage has no example: there is nothing to learn")
        self.passes, self.record, self._is_blank = self.passes + 1, 0, True
        self._order = self._shuffled()

    def _shuffled(self) -> np.ndarray:
        """Positions of the records in this pass's order. Bit generators' streams are the same in every numpy release,
        their shuffles are not."""
        seed = hashlib.sha256(f"{self._seed}/{self.passes}".encode()).digest()
        keys = np.random.PCG64(int.from_bytes(seed[:16], "big")).random_raw(len(self.source))
        return np.argsort(keys, kind="stable")
