"""Records to token ids and which of them bear loss: the one truth that training, checking and showing share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np
from transformers import PreTrainedTokenizerBase

from fettle.data.chat import ChatTemplate, Rendered, plain_pairs, template_of
from fettle.data.record import Record
from fettle.errors import UserError

OnLong = Literal["cut", "skip", "error"]
_BATCH_RECORDS, _BATCH_CHARACTERS = 256, 1_000_000
_Coded = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, slots=True)
class Example:
    """What the model learns from at once: a record, or a part of a long text.

    input_ids: int32 [tokens]. loss_mask: bool [tokens], True where predicting this token from those before it is
    learned; so never at 0. part: from 0, of a text that was split. was_cut: the record goes on past its last token.
    """

    input_ids: np.ndarray
    loss_mask: np.ndarray
    file: Path
    line: int
    part: int = 0
    was_cut: bool = False


@dataclass
class Counts:
    """What became of the records. longest: tokens of the longest one, before it was cut or split.

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
) -> Iterator[Example]:
    """The examples of some records, in their order, each of at most `max_length` tokens; fills `counts`.

    Text is split: each part begins with the last token of the one before, so that every token is learned once. Anything
    else is cut, skipped or refused. Raises UserError where a record cannot be rendered, and at the end where there was
    no token to learn at all.
    """
    assert max_length > 1
    counts = counts if counts is not None else Counts()
    _check_tokenizer(tokenizer)
    template = template_of(tokenizer)
    record = None
    for batch in _batches(records):
        for record, (ids, mask) in zip(batch, _code(batch, tokenizer, template), strict=True):
            counts.records += 1
            counts.longest = max(counts.longest, len(ids))
            for example in _fit(record, ids, mask, max_length, on_long, counts):
                counts.examples += 1
                counts.tokens += len(example.input_ids)
                counts.loss_tokens += int(example.loss_mask.sum())
                yield example
    if not counts.loss_tokens:
        raise UserError(
            f"no token bears loss in any of {counts.records} records: there is nothing to learn",
            file=record.file if record else None,
            fix="see what is learned with `fettle data show`; a larger max_length may leave room for answers",
        )


def _fit(
    record: Record, ids: np.ndarray, mask: np.ndarray, max_length: int, on_long: OnLong, counts: Counts
) -> Iterator[Example]:
    """The examples of one coded record."""
    mask[:1] = False
    if not mask.any() or (record.text is not None and not record.text.strip()):
        counts.skipped_empty += 1
    elif len(ids) <= max_length:
        yield Example(ids, mask, record.file, record.line)
    elif record.text is not None:
        for part, start in enumerate(range(0, len(ids) - 1, max_length - 1)):
            learned = mask[start : start + max_length].copy()
            learned[0] = False
            yield Example(ids[start : start + max_length].copy(), learned, record.file, record.line, part)
    elif on_long == "error":
        raise UserError(
            f"this record has {len(ids)} tokens, more than max_length {max_length}",
            file=record.file,
            line=record.line,
            fix="shorten it, raise max_length, or say on_long: cut or skip",
        )
    elif on_long == "skip":
        counts.skipped_long += 1
    elif not mask[:max_length].any():
        counts.skipped_empty += 1
    else:
        counts.cut += 1
        kept = ids[:max_length].copy(), mask[:max_length].copy()
        yield Example(*kept, record.file, record.line, was_cut=True)


def _batches(records: Iterable[Record]) -> Iterator[list[Record]]:
    """Records in groups small enough to hold, large enough that the tokenizer uses its threads."""
    batch: list[Record] = []
    characters = 0
    for record in records:
        batch.append(record)
        characters += len(record.text or "") + sum(len(turn.content) for turn in record.conversation)
        if len(batch) >= _BATCH_RECORDS or characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _code(batch: list[Record], tokenizer: PreTrainedTokenizerBase, template: ChatTemplate | None) -> Iterator[_Coded]:
    """(ids, mask) of each record of a batch, not yet cut."""
    for is_text, group in groupby(batch, key=lambda record: record.text is not None):
        alike = list(group)
        if is_text:
            yield from _code_texts([record.text or "" for record in alike], tokenizer)
        elif template is not None:
            yield from _code_chats([template.render(record) for record in alike], tokenizer)
        else:
            yield from _code_plain([plain_pairs(record) for record in alike], tokenizer)


def _code_texts(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> Iterator[_Coded]:
    """All of a text bears loss, and the end-of-text token after it."""
    for ids in _opened(texts, tokenizer):
        coded = np.asarray([*ids, tokenizer.eos_token_id], dtype=np.int32)
        yield coded, np.ones(len(coded), dtype=bool)


def _code_chats(rendered: list[Rendered], tokenizer: PreTrainedTokenizerBase) -> Iterator[_Coded]:
    """Tokens of the rendered text as serving makes them: the template brings its own special tokens. A token bears loss
    where any of its characters does."""
    coded = _tokenize([one.text for one in rendered], tokenizer, opening=False, offsets=True)
    for one, ids, offsets in zip(rendered, coded["input_ids"], coded["offset_mapping"], strict=True):
        yield np.asarray(ids, dtype=np.int32), _mask(np.asarray(offsets, dtype=np.int64), one.spans)


def _mask(offsets: np.ndarray, spans: tuple[tuple[int, int], ...]) -> np.ndarray:
    """offsets: [tokens, 2], the characters each token says it covers. Returns bool [tokens]."""
    starts, ends = offsets.reshape(-1, 2).T
    # Some tokenizers leave a leading space out of a token's offsets, or all of a token that is only a space: each token
    # reaches back to the end of the one before.
    before = np.concatenate([np.zeros(1, np.int64), np.maximum.accumulate(ends)[:-1]]) if len(ends) else ends
    starts = np.minimum(starts, before)
    mask = np.zeros(len(ends), dtype=bool)
    for first, last in spans:
        mask |= (starts < last) & (ends > first)
    return mask


def _code_plain(records: list[list[tuple[str, str]]], tokenizer: PreTrainedTokenizerBase) -> Iterator[_Coded]:
    """Prompts as serving tokenizes them by themselves; each answer, with an end-of-text token, bears loss.

    An answer's tokens are those it has after its prompt, unless the prompt's own tokens would be others there.
    """
    pairs = [pair for record in records for pair in record]
    prompts = _opened([asked for asked, _ in pairs], tokenizer)
    joined = _opened([asked + answer for asked, answer in pairs], tokenizer)
    alone = _tokenize([answer for _, answer in pairs], tokenizer, opening=False)["input_ids"]
    opening = len(_opened([""], tokenizer)[0])
    place = 0
    for record in records:
        ids: list[int] = []
        mask: list[bool] = []
        for turn in range(len(record)):
            prompt, both = prompts[place], joined[place]
            answer = both[len(prompt) :] if both[: len(prompt)] == prompt else alone[place]
            prompt = prompt[opening:] if turn else prompt
            ids += [*prompt, *answer, tokenizer.eos_token_id]
            mask += [False] * len(prompt) + [True] * (len(answer) + 1)
            place += 1
        yield np.asarray(ids, dtype=np.int32), np.asarray(mask, dtype=bool)


def _opened(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Token ids with the beginning-of-text token the tokenizer puts first, if any, and without one at the end."""
    found: list[list[int]] = _tokenize(texts, tokenizer, opening=True)["input_ids"]
    return [ids[:-1] if ids and ids[-1] == tokenizer.eos_token_id else ids for ids in found]


def _tokenize(texts: list[str], tokenizer: PreTrainedTokenizerBase, *, opening: bool, offsets: bool = False) -> Any:
    return tokenizer(
        texts,
        add_special_tokens=opening,
        return_offsets_mapping=offsets,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )


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
