"""Texts as an encoder's tokenizer frames them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_encoders import word_pieces

from fettle.data.encode import encode
from fettle.data.encoder_batches import collate_encoder
from fettle.data.frame import BARE, frame_of
from fettle.data.record import Answer, Message, Prompt, Record
from fettle.errors import UserError
from fettle.models.base import BUNDLED, load_tokenizer

WORDS = "the night train leaves at nine and the last one leaves at ten"
TOKENIZER = word_pieces([WORDS] * 9)


def shown(records: list[Record], max_length: int, **how) -> list[str]:
    examples = encode(records, TOKENIZER, max_length=max_length, **how)
    return [" ".join(TOKENIZER.convert_ids_to_tokens(one.input_ids)) for one in examples]


def text(said: str = WORDS, **more) -> Record:
    return Record(Path("a.txt"), 1, text=said, **more)


def test_an_encoders_frame_is_its_tokenizers_own_and_a_causal_models_is_bare():
    assert (frame_of(TOKENIZER).before, frame_of(TOKENIZER).after) == ((2,), (3,))
    assert frame_of(load_tokenizer(BUNDLED["tiny"])) is BARE


def test_each_window_of_a_long_text_is_framed_and_no_token_is_given_twice():
    assert shown([text()], max_length=9) == [
        "[CLS] the night train leaves at nine and [SEP]",
        "[CLS] the last one leaves at ten [SEP]",
    ]


def test_all_but_the_frame_may_be_hidden():
    (example,) = encode([text()], TOKENIZER, max_length=20)
    assert example.loss_mask.tolist() == [False, *[True] * 13, False]


def test_a_text_to_be_classified_is_cut_inside_its_frame():
    assert shown([text(label="late")], max_length=6) == ["[CLS] the night train leaves [SEP]"]


def test_a_record_that_is_too_long_is_told_with_its_frame():
    with pytest.raises(UserError, match="this record has 15 tokens, more than max_length 14"):
        shown([text(label="late")], max_length=14, on_long="error")


def test_answers_are_read_after_their_prompt_within_one_frame():
    asked = Prompt((Message("user", "the train"),), ("the train ",))
    said = tuple(Answer((Message("assistant", words),)) for words in ("leaves at nine", "the last one"))
    record = Record(Path("a.jsonl"), 1, prompt=asked, answers=said)
    assert shown([record], max_length=20) == [
        "[CLS] the train leaves at nine [SEP]",
        "[CLS] the train the last one [SEP]",
    ]


def test_the_name_of_a_special_token_in_a_text_stays_text():
    (example,) = encode([text("the [MASK] train")], TOKENIZER, max_length=20)
    assert TOKENIZER.mask_token_id not in example.input_ids


def test_packed_texts_see_themselves_alone():
    ids = [np.array(one) for one in ([5, 6, 7], [8, 9])]
    batch = collate_encoder(ids, ids, max_length=5, packing=True, pad_id=0, first_position=2)
    sees = batch["attention_mask"][0, 0].int().tolist()
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9]]
    assert batch["position_ids"].tolist() == [[2, 3, 4, 2, 3]]
    assert sees == [[1, 1, 1, 0, 0]] * 3 + [[0, 0, 0, 1, 1]] * 2


@pytest.mark.parametrize("packing", [True, False])
def test_no_texts_give_padding_that_sees_itself(packing):
    batch = collate_encoder([], [], max_length=8, packing=packing, pad_id=0)
    assert batch["attention_mask"].all() and (batch["labels"] < 0).all()
