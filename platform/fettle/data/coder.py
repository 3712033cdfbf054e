"""Records to token ids as serving makes them, and which of them bear loss, before anything is cut."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

import numpy as np
from tokenizers import Encoding
from transformers import PreTrainedTokenizerBase

from fettle.data.chat import Rendered, neutral_of, template_of
from fettle.data.halves import code_halves
from fettle.data.long_text import LONG, tokenize_long
from fettle.data.plain import plain_pairs
from fettle.data.record import Record

_Coded = tuple[np.ndarray, np.ndarray]


class Coder:
    """Records to (ids, mask), not yet cut. is_framed: an encoder's, without the tokens that frame each text.
    is_halved: an encoder-decoder model's, prompts and answers by themselves."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, is_framed: bool = False, is_halved: bool = False) -> None:
        self._tokenizer = tokenizer
        # What ends a text that is learned from its beginning on; a frame has an end of its own.
        self._end = [] if is_framed else [tokenizer.eos_token_id]
        self._is_framed, self._is_halved = is_framed, is_halved
        self._template = template_of(tokenizer)
        self._neutral = self._template.neutral if self._template else neutral_of(tokenizer)

    def code(self, records: list[Record]) -> Iterator[_Coded]:
        """In the order of the records, of which neighbours of a kind are tokenized together."""
        for is_text, group in groupby(records, key=lambda record: record.text is not None):
            alike = list(group)
            if is_text:
                yield from self._texts(alike)
            elif self._is_halved:
                yield from code_halves(alike, self._tokenizer, self._template, self._neutral)
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
            coded = np.concatenate([*parts, self._end if is_learned else []]).astype(np.int32)
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
                said = [] if answer is None else [*said, *self._end]
                prompt = prompt[opening:] if turn else prompt
                ids += [*prompt, *said]
                mask += [False] * len(prompt) + [is_learned] * len(said)
            yield np.asarray(ids, dtype=np.int32), np.asarray(mask, dtype=bool)

    def _opened(self, texts: list[str]) -> list[list[int]]:
        """Token ids with the beginning-of-text token the tokenizer puts first, if any, and without one at the end."""
        found: list[list[int]] = self._tokenize(texts, opening=not self._is_framed)["input_ids"]
        eos = self._tokenizer.eos_token_id
        return [ids[:-1] if ids and ids[-1] == eos else ids for ids in found]

    def _tokenize(self, texts: list[str], *, opening: bool) -> Any:
        return self._tokenizer(
            texts,
            add_special_tokens=opening,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )


def end_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Token ids at which generation stops: the end-of-turn token of the chat template, and the end of text."""
    template = template_of(tokenizer)
    found = []
    if template is not None and template.end_of_turn:
        found += tokenizer(template.end_of_turn, add_special_tokens=False)["input_ids"][:1]
    if tokenizer.eos_token_id is not None:
        found.append(tokenizer.eos_token_id)
    return tuple(dict.fromkeys(int(token) for token in found))


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
