"""Which tokens are hidden, and by what."""

from __future__ import annotations

import numpy as np
import pytest

from fettle.data.batches import IGNORE
from fettle.data.tokens import TokenExample
from fettle.train.masked import Masking
from fettle.train.task import HELDOUT

PAD, CLS, SEP, MASK, VOCABULARY = 0, 1, 2, 3, 1000
SPECIAL = np.arange(VOCABULARY) < 4


def masking(rate: float = 0.15, seed: int = 0) -> Masking:
    return Masking(rate, MASK, SPECIAL, seed)


def text(length: int, first: int = 4) -> TokenExample:
    """[CLS], `length` different tokens, [SEP]."""
    ids = np.concatenate([[CLS], np.arange(first, first + length), [SEP]]).astype(np.int32)
    return TokenExample(ids, np.r_[False, np.ones(length, bool), False])


def test_fifteen_per_cent_are_hidden_and_labels_are_what_stood_there():
    ids, labels = masking().hide(text(200), step=0)
    hidden = labels != IGNORE
    assert hidden.sum() == 30
    assert (labels[hidden] == text(200).input_ids[hidden]).all()
    assert (ids[~hidden] == text(200).input_ids[~hidden]).all()


def test_of_those_hidden_eighty_per_cent_become_the_mask_ten_another_token_and_ten_stay():
    fates = np.zeros(3)
    for step in range(200):
        ids, labels = masking().hide(text(200), step)
        hidden = labels != IGNORE
        is_mask, stays = ids[hidden] == MASK, ids[hidden] == labels[hidden]
        fates += is_mask.sum(), (~is_mask & ~stays).sum(), stays.sum()
    # 6,000 drawn: the standard deviation of each share is at most 0.5 points.
    assert fates / fates.sum() == pytest.approx([0.8, 0.1, 0.1], abs=0.02)


def test_special_tokens_are_neither_hidden_nor_put_in_place_of_others():
    for step in range(50):
        ids, labels = masking(rate=0.9).hide(text(40), step)
        assert (labels[[0, -1]] == IGNORE).all() and (ids[[0, -1]] == [CLS, SEP]).all()
        assert not np.isin(ids[1:-1], [PAD, CLS, SEP]).any()


def test_the_same_seed_step_and_tokens_are_hidden_alike_and_any_other_otherwise():
    def chosen(seed: int, step: int, first: int = 4) -> tuple[int, ...]:
        return tuple(np.flatnonzero(masking(seed=seed).hide(text(100, first), step)[1] != IGNORE))

    assert chosen(0, 5) == chosen(0, 5) and chosen(0, HELDOUT) == chosen(0, HELDOUT)
    assert len({chosen(0, 5), chosen(1, 5), chosen(0, 6), chosen(0, 5, 5), chosen(0, HELDOUT)}) == 5


def test_a_short_text_hides_one_token_and_one_of_special_tokens_none():
    assert (masking().hide(text(2), 0)[1] != IGNORE).sum() == 1
    bare = TokenExample(np.array([CLS, SEP], np.int32), np.ones(2, bool))
    assert (masking().hide(bare, 0)[1] == IGNORE).all()


def test_an_example_is_left_as_it_was():
    example = text(50)
    masking().hide(example, 0)
    assert (example.input_ids == text(50).input_ids).all()
