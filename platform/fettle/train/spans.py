"""Span corruption: Raffel et al. 2020, arXiv:1910.10683, section 3.1.4 (figure 2) and 3.3.4.

Spans may lie anywhere. T5's own code (`random_spans_noise_mask`) always takes the end of the text out, which of a short
one with a single span is the same tokens every time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from fettle.data.batches import Encoded
from fettle.data.tokens import content_hash


@dataclass(frozen=True)
class SpanCorruption:
    """Which tokens of a text are taken out, and what stands in their place.

    rate: their share. mean_span: of how many in a row, on average. sentinels: ids of `<extra_id_0>`, `<extra_id_1>`, …
    end_id: the end of text, which ends both halves and is never taken out.
    """

    rate: float
    mean_span: float
    sentinels: tuple[int, ...]
    end_id: int
    seed: int

    def halves(self, example: Encoded, step: int) -> tuple[np.ndarray, np.ndarray]:
        """(the text with a sentinel for each span that is taken out, each sentinel with its span), both ended.

        `rate` of the tokens, rounded, at least one and never all, in as many spans as `mean_span` says, at least one
        and at most one a sentinel, with at least one token between two. The same for the same (seed, step, token ids),
        so that nothing else changes it. A text of a single token stays as it is, with nothing to learn.
        """
        ids = example.input_ids
        ids = ids[:-1] if len(ids) and ids[-1] == self.end_id else ids
        end = [self.end_id]
        if len(ids) < 2:
            return np.concatenate([ids, end]), np.zeros(0, np.int64)
        dice = np.random.default_rng([self.seed, step + 1, content_hash(example)])  # HELDOUT is -1
        num_taken = min(max(1, round(self.rate * len(ids))), len(ids) - 1)
        num_left = len(ids) - num_taken
        num_spans = min(max(1, round(num_taken / self.mean_span)), num_taken, num_left + 1, len(self.sentinels))
        taken = _parts(num_taken, num_spans, dice)
        left = _parts(num_left + 2, num_spans + 1, dice)
        left[[0, -1]] -= 1  # before the first and after the last there may be none
        read: list[np.ndarray] = []
        written: list[np.ndarray] = []
        at = 0
        for sentinel, before, span in zip(self.sentinels, left, taken, strict=False):
            read += [ids[at : at + before], np.array([sentinel])]
            written += [np.array([sentinel]), ids[at + before : at + before + span]]
            at += before + span
        read.append(ids[at:])
        return np.concatenate([*read, end]), np.concatenate([*written, end])


def sentinels_of(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Ids of `<extra_id_0>`, `<extra_id_1>`, … of T5's tokenizers (mT5's are words, `▁<extra_id_0>`), else none."""
    vocabulary = tokenizer.get_vocab()
    found: list[int] = []
    while True:
        names = (f"<extra_id_{len(found)}>", f"▁<extra_id_{len(found)}>")
        token = next((vocabulary[name] for name in names if name in vocabulary), None)
        if token is None:
            return tuple(found)
        found.append(token)


def _parts(total: int, count: int, dice: np.random.Generator) -> np.ndarray:
    """`total` as a sum of `count` positive numbers, each such sum as likely as another; int64 [count]."""
    ends = np.sort(dice.choice(total - 1, count - 1, replace=False)) + 1
    return np.diff(np.concatenate([[0], ends, [total]]))
