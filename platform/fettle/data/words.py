"""Sequences of 13 words of many texts as 64-bit hashes, without a Python loop over words."""

from __future__ import annotations

from functools import cache

import numpy as np

GRAM = 13
BREAK = "\x1e"
MOST_BYTES = 1 << 18
_BASE = 0x9E3779B97F4A7C15  # odd: multiplication by it loses nothing
# What separates words: white space, and the punctuation of sentences and markup. Signs of arithmetic are letters, or
# "12 + 5" would be "12 / 5".
_SEPARATORS = [*range(33), *b".,;:!?'\"()[]{}`_#~|\\*\x7f"]
_VALUES = np.random.default_rng(13).integers(0, 1 << 63, size=256, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
_VALUES[ord("A") : ord("Z") + 1] = _VALUES[ord("a") : ord("z") + 1]
_VALUES[_SEPARATORS] = 0
_SCRIPTS = 0xE3, 0xED  # the first bytes of U+3000 to U+DFFF, which are written without spaces


def grams_of(texts: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(uint64 hash of every sequence of 13 words, int64 index of the text it is in, uint64 [texts] hash of all words).

    No sequence crosses a `BREAK` in a text. Case and punctuation count for nothing; a Chinese, Japanese or Korean
    character is a word. A text without a word has the hash 0. The texts may have `MOST_BYTES` bytes of UTF-8 together,
    one between two included, and take some 50 times as much for the moment.
    """
    words, stretches, owners = _words(texts)
    ends = np.append(np.flatnonzero(stretches[1:] != stretches[:-1]) + 1, len(words))[: len(words)]
    starts = np.insert(ends[:-1], 0, 0)[: len(words)]
    num_grams = np.maximum(ends - starts - (GRAM - 1), 0)
    firsts = np.repeat(starts - np.cumsum(num_grams) + num_grams, num_grams) + np.arange(num_grams.sum())
    edges = np.searchsorted(owners, np.arange(len(texts) + 1))
    hashes = _hashed(words, np.append(firsts, edges[:-1]), np.append(firsts + GRAM, edges[1:]))
    return hashes[: len(firsts)], owners[firsts], hashes[len(firsts) :]


def _words(texts: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(hash of each word, number of the stretch without a break that it is in, index of the text it is in)."""
    coded = [(text if text.isascii() else text.lower()).encode("utf-8", "surrogatepass") for text in texts]
    raw = np.frombuffer(b"\n".join(coded), dtype=np.uint8)
    assert len(raw) <= MOST_BYTES
    values = _VALUES[raw]
    starting = np.zeros(len(raw), dtype=bool)
    if not all(text.isascii() for text in texts):
        _drop_signs(raw, values)
        starting |= (raw >= _SCRIPTS[0]) & (raw <= _SCRIPTS[1])
    is_word = values != 0
    starting[:1] |= is_word[:1]
    starting[1:] |= is_word[1:] & ~is_word[:-1]
    starts = np.flatnonzero(starting & is_word)
    # What separates words adds nothing to a hash: each may reach to the next one's first letter.
    hashes = _hashed(values, starts, np.append(starts[1:], len(raw)))
    hashes ^= hashes >> np.uint64(32)
    ends = np.cumsum([len(text) + 1 for text in coded]) - 1
    breaks = np.sort(np.append(ends, np.flatnonzero(raw == ord(BREAK))))
    owners = np.searchsorted(ends, starts, side="right")
    return hashes * np.uint64(_BASE), np.searchsorted(breaks, starts, side="right"), owners


def _drop_signs(raw: np.ndarray, values: np.ndarray) -> None:
    """Typographic quotes, dashes and spaces (U+00A0, U+2000 to U+203F) separate words too."""
    led = np.flatnonzero((raw[:-1] == 0xE2) & (raw[1:] == 0x80))
    for offset in range(3):
        values[np.minimum(led + offset, len(raw) - 1)] = 0
    spaces = np.flatnonzero((raw[:-1] == 0xC2) & (raw[1:] == 0xA0))
    values[spaces] = values[spaces + 1] = 0


def _hashed(values: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The polynomial hash of each `values[start:end]` (uint64, modulo 2**64), wherever it begins."""
    powers = _powers()
    sums = np.zeros(len(values) + 1, dtype=np.uint64)
    np.cumsum(values * powers[: len(values)], out=sums[1:])
    return (sums[ends] - sums[starts]) * powers[MOST_BYTES - starts]


@cache
def _powers() -> np.ndarray:
    """uint64 [MOST_BYTES + 1]: powers of the base."""
    powers = np.full(MOST_BYTES + 1, _BASE, dtype=np.uint64)
    powers[0] = 1
    return np.cumprod(powers, dtype=np.uint64)
