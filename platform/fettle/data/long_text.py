"""A long text's token ids, made piece by piece: at once they would take 160 bytes of memory for each byte of text."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from tokenizers import Encoding
from transformers import PreTrainedTokenizerBase

LONG = 1 << 19  # characters
_PIECE = 1 << 16
_OVERLAP = 1 << 12
_AT_ONCE = 16  # pieces, over which the tokenizer's threads are spread
_AGREED = 16  # tokens on either side of a seam


def tokenize_long(text: str, tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """The very ids of `tokenizer(text, add_special_tokens=False)`, int32 [tokens].

    Pieces overlap, and are joined where both have the same tokens for some way before and after: what a tokenizer makes
    of a place depends on what is near it. A text in which pieces never agree (one word of megabytes) is done at once.
    """
    found: list[np.ndarray] = []
    before: Encoding | None = None
    begin = 0  # of the tokens of `before` that are not yet found
    for piece in _pieces(text, tokenizer):
        if before is not None:
            if (seam := _seam(before, piece)) is None:
                return np.asarray(_encode([text], tokenizer)[0].ids, dtype=np.int32)
            end, after = seam
            found.append(np.asarray(before.ids[begin:end], dtype=np.int32))
            begin = after
        before = piece
    assert before is not None
    return np.concatenate([*found, np.asarray(before.ids[begin:], dtype=np.int32)])


def _pieces(text: str, tokenizer: PreTrainedTokenizerBase) -> Iterator[Encoding]:
    starts = range(0, max(1, len(text) - _OVERLAP), _PIECE)
    for first in range(0, len(starts), _AT_ONCE):
        yield from _encode([text[at : at + _PIECE + _OVERLAP] for at in starts[first : first + _AT_ONCE]], tokenizer)


def _seam(piece: Encoding, following: Encoding) -> tuple[int, int] | None:
    """(token of the piece, token of the following one) that both are the same and begin at the same character, in the
    middle of their overlap and among others that are the same."""
    ids, others = piece.ids, following.ids
    for at in range(_OVERLAP // 4, 3 * _OVERLAP // 4):
        one, other = piece.char_to_token(_PIECE + at), following.char_to_token(at)
        if one is None or other is None or other < _AGREED:
            continue
        starts = piece.token_to_chars(one), following.token_to_chars(other)
        if starts[0] is None or starts[1] is None or not starts[0][0] - _PIECE == at == starts[1][0]:
            continue
        if ids[one - _AGREED : one + _AGREED] == others[other - _AGREED : other + _AGREED]:
            return one, other
    return None


def _encode(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[Encoding]:
    return tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False).encodings
