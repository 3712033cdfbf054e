"""What is noteworthy about the records of a file: their number and kinds, duplicates, oddities, balance."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from fettle.data.record import Message, Record, RecordKind
from fettle.data.report import Balance, Finding

if TYPE_CHECKING:
    from fettle.data.measure import Measure

_MOST_COMPARED = 20_000_000
_MOST_LABELS = 10_000
_RENDERED = 200  # records, once more than they are anyway

AGAIN = "an earlier record again"
_EMPTY_TEXT = "empty text, left out"
_EMPTY_ANSWER = "empty answer: the model learns to say nothing"
_EMPTY_PROMPT = "empty prompt"
_EMPTY_STEP = "empty step"
_SAME = "chosen and rejected are the same: nothing to prefer"
_MANY_LABELS = f"label beyond the first {_MOST_LABELS:,} different ones: is this column the label?"


class Notes:
    """Takes notes of records that pass by. Costs about a microsecond and 16 bytes each, twice that in the end.

    Duplicates are found by 64-bit hashes, among the first 20 million records (640 MB).
    """

    def __init__(self, measure: Measure | None = None) -> None:
        self.records = 0
        self.kinds: dict[RecordKind, int] = {}
        self._measure = measure
        self._odd: dict[str, tuple[int, int]] = {}
        self._hashes, self._lines = array("q"), array("q")
        self._labels: dict[str, int] = {}
        self._answers: dict[int, int] = {}

    def watch(self, records: Iterable[Record], see: Callable[[Record], None] | None = None) -> Iterator[Record]:
        """The records, noted one by one, and each shown to `see`."""
        for record in records:
            self.note(record)
            if see is not None:
                see(record)
            yield record

    def note(self, record: Record) -> None:
        """Takes note of a record."""
        self.records += 1
        kind: RecordKind
        turns: tuple[Message, ...] | None = record.messages
        if record.text is not None:
            kind = "text"
            if not record.text or record.text.isspace():
                self._note(_EMPTY_TEXT, record.line)
            if record.label is not None:
                kind = "label"
                self._count_label(str(record.label), record.line)
        elif turns is not None:
            kind = "messages"
            if turns[-1].role != "assistant":
                self._note(f"last turn is the {turns[-1].role}'s, which is not learned", record.line)
            self._note_empty(turns, record.line)
        else:
            assert record.prompt is not None
            turns = record.prompt.turns
            kind = "prompt"
            self._note_empty(turns, record.line)
            if (said := record.completion) is not None:
                kind = "prompt_completion"
                if not said or said.isspace():
                    self._note(_EMPTY_ANSWER, record.line)
            elif record.answers or record.steps:
                kind = record.kind
                self._note_answers(record)
        self.kinds[kind] = self.kinds.get(kind, 0) + 1
        if len(self._hashes) < _MOST_COMPARED:
            content = record.text, turns, record.completion, record.answers, record.steps, record.label, record.tools
            try:
                self._hashes.append(hash(content))
            except TypeError:  # tool calls and schemas are objects
                self._hashes.append(hash(repr(content)))
            self._lines.append(record.line)
        if self._measure is not None:
            if token := self._measure.special_in(record):
                self._note(f"the text {token} is taken as text, not as the control token", record.line)
            if self.records <= _RENDERED and (role := self._measure.left_out(record)):
                self._note(f"of the first {_RENDERED} the chat template leaves out words of the {role}", record.line)

    def duplicates(self) -> tuple[int, int, int]:
        """How many records are earlier ones again, the first such line, and the line that it repeats."""
        hashes, lines = np.frombuffer(self._hashes, np.int64), np.frombuffer(self._lines, np.int64)
        order = np.argsort(hashes, kind="stable")
        ordered = hashes[order]
        again = np.flatnonzero(ordered[1:] == ordered[:-1]) + 1
        if not len(again):
            return 0, 0, 0
        first = int(order[again].min())
        origin = int(np.flatnonzero(hashes == hashes[first])[0])
        return len(again), int(lines[first]), int(lines[origin])

    def balance(self) -> Balance:
        """How the labels, or the numbers of answers, divide; the commonest first."""
        labels = sorted(self._labels.items(), key=lambda item: (-item[1], item[0]))
        return Balance(dict(labels), dict(sorted(self._answers.items())))

    def findings(self) -> list[Finding]:
        """The oddities, each with its number and first line."""
        found = [Finding(what, count, line) for what, (count, line) in self._odd.items()]
        count, line, origin = self.duplicates()
        if count:
            found.insert(0, Finding(AGAIN, count, line, f"line {origin} again" if origin != line else ""))
        if len(self._labels) == 1 and self.records > 1:
            (only,) = self._labels
            found.append(Finding(f"every label is '{only}': nothing to tell apart", self.records, self._lines[0]))
        return found

    def _note(self, what: str, line: int) -> None:
        count, first = self._odd.get(what, (0, line))
        self._odd[what] = count + 1, first

    def _note_empty(self, turns: tuple[Message, ...], line: int) -> None:
        empty = [turn for turn in turns if not turn.content or turn.content.isspace()]
        if empty:
            if any(turn.role == "user" for turn in empty):
                self._note(_EMPTY_PROMPT, line)
            if any(turn.bears_loss and not turn.tool_calls for turn in empty):
                self._note(_EMPTY_ANSWER, line)

    def _note_answers(self, record: Record) -> None:
        if record.steps:
            assert isinstance(record.label, tuple)
            for is_good in record.label:
                self._count_label("good" if is_good else "bad", record.line)
            if not all(step.strip() for step in record.steps):
                self._note(_EMPTY_STEP, record.line)
            return
        said = [answer.turns for answer in record.answers]
        for turns in said:
            self._note_empty(turns, record.line)
        if record.label is not None:
            self._count_label("good" if record.label else "bad", record.line)
            return
        self._answers[len(said)] = self._answers.get(len(said), 0) + 1
        if any(turns in said[:place] for place, turns in enumerate(said)):
            self._note(_SAME, record.line)

    def _count_label(self, label: str, line: int) -> None:
        if label in self._labels or len(self._labels) < _MOST_LABELS:
            self._labels[label] = self._labels.get(label, 0) + 1
        else:
            self._note(_MANY_LABELS, line)
