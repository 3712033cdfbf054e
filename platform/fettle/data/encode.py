"""Records to token ids and which of them bear loss: the one truth that training, checking and showing share."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from transformers import PreTrainedTokenizerBase

from fettle.data.coder import Coder
from fettle.data.frame import HALVED, Frame, frame_of
from fettle.data.record import Record
from fettle.errors import UserError

OnLong = Literal["cut", "skip", "error"]
_BATCH_RECORDS, _BATCH_CHARACTERS = 256, 1_000_000
_GIVEN = ("prompt", "label")  # kinds of records that are learned from, but not by their tokens
_Parts = list[tuple[str, Record]]


@dataclass(frozen=True, slots=True)
class Example:
    """What the model learns from at once: a record, or a part of one.

    input_ids: int32 [tokens]. loss_mask: bool [tokens], True where predicting this token from those before it is
    learned (for an encoder: from those around it); so never at 0. part: from 0, of a text that was split. was_cut: the
    record goes on past its last token. name: which of a record's answers this is, as `Record.parts` calls it. value: an
    answer's score, the margin of the better one, or 1 for one that is good. label: of a text to be classified.
    """

    input_ids: np.ndarray
    loss_mask: np.ndarray
    file: Path
    line: int
    part: int = 0
    was_cut: bool = False
    name: str = ""
    value: float = 0.0
    label: str | None = None


@dataclass
class Counts:
    """What became of the records. longest: tokens of the longest part of one, before it was cut or split.

    skipped_long: with `on_long: skip`. skipped_empty: nothing to learn, as when the prompt fills `max_length`, or all
    answers have the same score.
    """

    records: int = 0
    examples: int = 0
    cut: int = 0
    skipped_long: int = 0
    skipped_empty: int = 0
    tokens: int = 0
    loss_tokens: int = 0
    longest: int = 0

    @property
    def skipped(self) -> int:
        """Records that gave no example."""
        return self.skipped_long + self.skipped_empty


def encode(
    records: Iterable[Record],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    on_long: OnLong = "cut",
    counts: Counts | None = None,
    must_learn: bool = True,
    lengths: array[int] | None = None,
    is_halved: bool = False,
) -> Iterator[Example]:
    """The examples of some records, in their order, each of at most `max_length` tokens; fills `counts`, and `lengths`
    with the tokens of each record's longest part, before it is cut or split.

    Text is split: each part begins with the last token of the one before, so that every token is learned once. Anything
    else is cut, skipped or refused; the answers of a record together. An encoder's tokenizer frames every example
    (`frame_of`), and splits text without an overlap. Raises UserError where a record cannot be rendered, and
    (`must_learn`) at the end where there was no token to learn at all in records learned by their tokens.

    is_halved: for an encoder-decoder model, whose prompts and answers have at most `max_length` tokens each.
    """
    assert max_length > 1
    counts = counts if counts is not None else Counts()
    frame = HALVED if is_halved else frame_of(tokenizer)
    _check_tokenizer(tokenizer, frame)
    coder = Coder(tokenizer, is_framed=len(frame) > 0, is_halved=is_halved)
    record = None
    for batch in _batches(records):
        coded = coder.code([part for _, parts in batch for _, part in parts])
        for record, parts in batch:
            counts.records += 1
            pieces = [(name, part, *next(coded)) for name, part in parts]
            longest = max(frame.length(ids, mask) for _, _, ids, mask in pieces)
            counts.longest = max(counts.longest, longest)
            if lengths is not None:
                lengths.append(longest)
            must_learn = must_learn and parts[0][1].kind not in _GIVEN
            if _is_tied(record):
                counts.skipped_empty += 1
                continue
            for example in _judged(_fit_record(pieces, max_length, on_long, counts, frame), record):
                counts.examples += 1
                counts.tokens += len(example.input_ids)
                counts.loss_tokens += int(np.count_nonzero(example.loss_mask))
                yield example
    if must_learn and not counts.loss_tokens:
        raise UserError(
            f"no token bears loss in any of {counts.records} records: there is nothing to learn",
            file=record.file if record else None,
            fix="see what is learned with `fettle data show`; a larger max_length may leave room for answers",
        )


def _judged(examples: list[Example], record: Record) -> list[Example]:
    """The examples of one record with what it says of each."""
    if not examples or (not record.answers and record.kind != "label"):
        return examples
    if record.kind == "label":
        return [replace(example, label=str(record.label)) for example in examples]
    return [replace(example, value=value) for example, value in zip(examples, record.values(), strict=True)]


def _is_tied(record: Record) -> bool:
    """Whether all answers have the same score: there is nothing to prefer."""
    scores = {answer.score for answer in record.answers}
    return len(record.answers) > 1 and len(scores) == 1 and None not in scores


def _fit_record(
    pieces: list[tuple[str, Record, np.ndarray, np.ndarray]],
    max_length: int,
    on_long: OnLong,
    counts: Counts,
    frame: Frame,
) -> list[Example]:
    """The examples of one record; none of any of its parts where one of them gives none, for they belong together."""
    found: list[Example] = []
    for name, part, ids, mask in pieces:
        fitted = _fit(name, part, ids, mask, max_length, on_long, frame)
        if not fitted:
            is_long = frame.length(ids, mask) > max_length and on_long == "skip" and part.kind != "text"
            counts.skipped_long += is_long
            counts.skipped_empty += not is_long
            return []
        found += fitted
    counts.cut += any(example.was_cut for example in found)
    return found


def _fit(
    name: str, part: Record, ids: np.ndarray, mask: np.ndarray, max_length: int, on_long: OnLong, frame: Frame
) -> list[Example]:
    """The examples of one coded part of a record."""
    kind, room = part.kind, max_length - len(frame)
    mask[: frame.overlap] = False
    if not (mask.any() or kind in _GIVEN) or (part.text is not None and not part.text.strip()):
        return []
    if frame.length(ids, mask) <= max_length:
        return [Example(*frame.around(ids, mask), part.file, part.line, name=name)]
    if kind == "text":
        found = []
        for place, start in enumerate(range(0, len(ids) - frame.overlap, room - frame.overlap)):
            window = frame.around(ids[start : start + room].copy(), mask[start : start + room].copy())
            found.append(Example(*window, part.file, part.line, place))
        return found
    if on_long == "error":
        raise UserError(
            f"this record has {frame.length(ids, mask)} tokens, more than max_length {max_length}",
            file=part.file,
            line=part.line,
            fix="shorten it, raise max_length, or say on_long: cut or skip",
        )
    kept = frame.cut(ids, mask, max_length)
    if on_long == "skip" or not (kept[1].any() or kind in _GIVEN):
        return []
    return [Example(*kept, part.file, part.line, was_cut=True, name=name)]


def _batches(records: Iterable[Record]) -> Iterator[list[tuple[Record, _Parts]]]:
    """Records with their parts, in groups small enough to hold, large enough that the tokenizer uses its threads."""
    batch: list[tuple[Record, _Parts]] = []
    characters = 0
    for record in records:
        parts = list(record.parts())
        batch.append((record, parts))
        for _, part in parts:
            characters += len(part.text or "") + sum(len(turn.content) for turn in part.conversation)
        if len(batch) >= _BATCH_RECORDS or characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _check_tokenizer(tokenizer: PreTrainedTokenizerBase, frame: Frame) -> None:
    if not tokenizer.is_fast:
        raise UserError(
            "this base's tokenizer cannot tell which characters a token stands for",
            file=str(tokenizer.name_or_path),
            expected="a tokenizer.json",
        )
    if not len(frame) and tokenizer.eos_token_id is None:
        raise UserError(
            "this base's tokenizer names no end-of-text token",
            file=str(tokenizer.name_or_path),
            field="eos_token",
            fix='add "eos_token" to its tokenizer_config.json',
        )
