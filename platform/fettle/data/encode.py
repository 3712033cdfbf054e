"""Records to token ids and which of them bear loss: the one truth that training, checking and showing share."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tokenizers import Encoding
from transformers import PreTrainedTokenizerBase

from fettle.data.chat import Rendered, neutral_of, template_of
from fettle.data.long_text import LONG, tokenize_long
from fettle.data.plain import plain_pairs
from fettle.data.record import Record
from fettle.errors import UserError

OnLong = Literal["cut", "skip", "error"]
_BATCH_RECORDS, _BATCH_CHARACTERS = 256, 1_000_000
_GIVEN = ("prompt", "label")  # kinds of records that are learned from, but not by their tokens
_Coded = tuple[np.ndarray, np.ndarray]
_Parts = list[tuple[str, Record]]


@dataclass(frozen=True, slots=True)
class Example:
    """What the model learns from at once: a record, or a part of one.

    input_ids: int32 [tokens]. loss_mask: bool [tokens], True where predicting this token from those before it is
    learned; so never at 0. part: from 0, of a text that was split. was_cut: the record goes on past its last token.
    name: which of a record's answers this is, as `Record.parts` calls it.
    """

    input_ids: np.ndarray
    loss_mask: np.ndarray
    file: Path
    line: int
    part: int = 0
    was_cut: bool = False
    name: str = ""


@dataclass
class Counts:
    """What became of the records. longest: tokens of the longest part of one, before it was cut or split.

    skipped_long: with `on_long: skip`. skipped_empty: nothing to learn, as when the prompt fills `max_length`.
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
) -> Iterator[Example]:
    """The examples of some records, in their order, each of at most `max_length` tokens; fills `counts`, and `lengths`
    with the tokens of each record's longest part, before it is cut or split.

    Text is split: each part begins with the last token of the one before, so that every token is learned once. Anything
    else is cut, skipped or refused; the answers of a record together. Raises UserError where a record cannot be
    rendered, and (`must_learn`) at the end where there was no token to learn at all in records learned by their tokens.
    """
    assert max_length > 1
    counts = counts if counts is not None else Counts()
    _check_tokenizer(tokenizer)
    coder = _Coder(tokenizer)
    record = None
    for batch in _batches(records):
        coded = coder.code([part for _, parts in batch for _, part in parts])
        for record, parts in batch:  # noqa: B007  # the last one is told below
            counts.records += 1
            pieces = [(name, part, *next(coded)) for name, part in parts]
            longest = max(len(ids) for _, _, ids, _ in pieces)
            counts.longest = max(counts.longest, longest)
            if lengths is not None:
                lengths.append(longest)
            must_learn = must_learn and parts[0][1].kind not in _GIVEN
            for example in _fit_record(pieces, max_length, on_long, counts):
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


def _fit_record(
    pieces: list[tuple[str, Record, np.ndarray, np.ndarray]], max_length: int, on_long: OnLong, counts: Counts
) -> list[Example]:
    """The examples of one record; none of any of its parts where one of them gives none, for they belong together."""
    found: list[Example] = []
    for name, part, ids, mask in pieces:
        fitted = _fit(name, part, ids, mask, max_length, on_long)
        if not fitted:
            is_long = len(ids) > max_length and on_long == "skip" and part.kind != "text"
            counts.skipped_long += is_long
            counts.skipped_empty += not is_long
            return []
        found += fitted
    counts.cut += any(example.was_cut for example in found)
    return found


def _fit(name: str, part: Record, ids: np.ndarray, mask: np.ndarray, max_length: int, on_long: OnLong) -> list[Example]:
    """The examples of one coded part of a record."""
    kind = part.kind
    mask[:1] = False
    if not (mask.any() or kind in _GIVEN) or (part.text is not None and not part.text.strip()):
        return []
    if len(ids) <= max_length:
        return [Example(ids, mask, part.file, part.line, name=name)]
    if kind == "text":
        found = []
        for place, start in enumerate(range(0, len(ids) - 1, max_length - 1)):
            learned = mask[start : start + max_length].copy()
            learned[0] = False
            found.append(Example(ids[start : start + max_length].copy(), learned, part.file, part.line, place))
        return found
    if on_long == "error":
        raise UserError(
            f"this record has {len(ids)} tokens, more than max_length {max_length}",
            file=part.file,
            line=part.line,
            fix="shorten it, raise max_length, or say on_long: cut or skip",
        )
    if on_long == "skip" or not (mask[:max_length].any() or kind in _GIVEN):
        return []
    kept = ids[:max_length].copy(), mask[:max_length].copy()
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


class _Coder:
    """Records to (ids, mask), not yet cut."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._template = template_of(tokenizer)
        self._neutral = self._template.neutral if self._template else neutral_of(tokenizer)

    def code(self, records: list[Record]) -> Iterator[_Coded]:
        """In the order of the records, of which neighbours of a kind are tokenized together."""
        for is_text, group in groupby(records, key=lambda record: record.text is not None):
            alike = list(group)
            if is_text:
                yield from self._texts(alike)
            elif self._template is not None:
                yield from self._chats([self._template.render(record) for record in alike])
            else:
                yield from self._plain(alike)

    def _texts(self, records: list[Record]) -> Iterator[_Coded]:
        """All of a text bears loss, and the end-of-text token after it; of one to be classified nothing does."""
        texts = [self._neutral(record.text or "") for record in records]
        opening, *found = self._opened(["", *(text for text in texts if len(text) <= LONG)])
        short = iter(found)
        for record, text in zip(records, texts, strict=True):
            parts = [next(short)] if len(text) <= LONG else [opening, tokenize_long(text, self._tokenizer)]
            is_learned = record.label is None
            coded = np.concatenate([*parts, [self._tokenizer.eos_token_id] if is_learned else []]).astype(np.int32)
            yield coded, np.full(len(coded), is_learned)

    def _chats(self, rendered: list[Rendered]) -> Iterator[_Coded]:
        """Tokens of the rendered text as serving makes them: the template brings its own special tokens. A token bears
        loss where any of its characters does."""
        coded = self._tokenize([one.text for one in rendered], opening=False)
        for one, ids, encoding in zip(rendered, coded["input_ids"], coded.encodings, strict=True):
            yield np.asarray(ids, dtype=np.int32), _mask(encoding, one.spans)

    def _plain(self, records: list[Record]) -> Iterator[_Coded]:
        """Prompts as serving tokenizes them by themselves; each answer, with an end-of-text token, bears loss.

        An answer's tokens are those it has after its prompt, unless the prompt's own tokens would be others there.
        """
        pairs = [plain_pairs(record, self._neutral) for record in records]
        flat = [pair for record in pairs for pair in record]
        prompts = iter(self._opened([asked for asked, _, _ in flat]))
        joined = iter(self._opened([asked + (answer or "") for asked, answer, _ in flat]))
        alone = iter(self._tokenize([answer or "" for _, answer, _ in flat], opening=False)["input_ids"])
        opening = len(self._opened([""])[0])
        for record in pairs:
            ids: list[int] = []
            mask: list[bool] = []
            for turn, (_, answer, is_learned) in enumerate(record):
                prompt, both, said = next(prompts), next(joined), next(alone)
                if both[: len(prompt)] == prompt:
                    said = both[len(prompt) :]
                said = [] if answer is None else [*said, self._tokenizer.eos_token_id]
                prompt = prompt[opening:] if turn else prompt
                ids += [*prompt, *said]
                mask += [False] * len(prompt) + [is_learned] * len(said)
            yield np.asarray(ids, dtype=np.int32), np.asarray(mask, dtype=bool)

    def _opened(self, texts: list[str]) -> list[list[int]]:
        """Token ids with the beginning-of-text token the tokenizer puts first, if any, and without one at the end."""
        eos = self._tokenizer.eos_token_id
        found: list[list[int]] = self._tokenize(texts, opening=True)["input_ids"]
        return [ids[:-1] if ids and ids[-1] == eos else ids for ids in found]

    def _tokenize(self, texts: list[str], *, opening: bool) -> Any:
        return self._tokenizer(
            texts,
            add_special_tokens=opening,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )


def _mask(encoding: Encoding, spans: tuple[tuple[int, int], ...]) -> np.ndarray:
    """Which tokens hold a character of the spans; bool [tokens]."""
    mask = np.zeros(len(encoding), dtype=bool)
    for first, last in spans:
        start, end = encoding.char_to_token(first), encoding.char_to_token(last - 1)
        if start is None or end is None:
            return _mask_by_offsets(np.asarray(encoding.offsets, dtype=np.int64), spans)
        while (after := encoding.token_to_chars(end + 1)) and after[0] < last:  # a character of several tokens
            end += 1
        mask[start : end + 1] = True
    return mask


def _mask_by_offsets(offsets: np.ndarray, spans: tuple[tuple[int, int], ...]) -> np.ndarray:
    """As `_mask`. offsets: [tokens, 2], the characters each token says it covers, which some tokenizers leave a leading
    space out of, or all of a token that is only a space: so each token reaches back to the end of the one before."""
    starts, ends = offsets.reshape(-1, 2).T
    before = np.concatenate([np.zeros(1, np.int64), np.maximum.accumulate(ends)[:-1]]) if len(ends) else ends
    starts = np.minimum(starts, before)
    mask = np.zeros(len(ends), dtype=bool)
    for first, last in spans:
        mask |= (starts < last) & (ends > first)
    return mask


def _check_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    if not tokenizer.is_fast:
        raise UserError(
            "this base's tokenizer cannot tell which characters a token stands for",
            file=str(tokenizer.name_or_path),
            expected="a tokenizer.json",
        )
    if tokenizer.eos_token_id is None:
        raise UserError(
            "this base's tokenizer names no end-of-text token",
            file=str(tokenizer.name_or_path),
            field="eos_token",
            fix='add "eos_token" to its tokenizer_config.json',
        )
