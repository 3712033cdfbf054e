"""Texts, plain prompts, and long records: what becomes of every token."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fettle.data.chat import rendering_of
from fettle.data.encode import Counts, encode
from fettle.data.record import Message, Prompt, Record
from fettle.data.show import in_brackets
from fettle.errors import UserError


def text(words: str) -> Record:
    return Record(Path("a.txt"), 1, text=words)


def pair(asked: str, answer: str, line: int = 1) -> Record:
    return Record(Path("a.jsonl"), line, prompt=Prompt((Message("user", asked),), (asked,)), completion=answer)


def shown(record: Record, tokenizer, max_length: int = 1000) -> list[str]:
    return [in_brackets(example, tokenizer) for example in encode([record], tokenizer, max_length=max_length)]


def test_every_token_of_a_text_bears_loss_but_the_first_which_nothing_predicts(make_tokenizer):
    assert shown(text("Once"), make_tokenizer()) == ["O⟦nce<|end|>⟧"]


def test_a_text_on_a_base_with_a_beginning_token_is_learned_whole(stories260k):
    assert shown(text("Once"), stories260k) == ["<s>⟦ Once</s>⟧"]


def test_a_long_text_is_split_so_that_every_token_is_learned_once(make_tokenizer):
    tokenizer = make_tokenizer()
    # 7 tokens, 4 at a time: 1234, then 4 again as what the next is predicted from.
    assert shown(text("123456"), tokenizer, max_length=4) == ["1⟦234⟧", "4⟦56<|end|>⟧"]


@pytest.mark.parametrize("length", range(2, 12))
def test_the_parts_of_a_text_hold_each_of_its_tokens_once_at_any_length(make_tokenizer, length):
    tokenizer = make_tokenizer()
    whole = next(encode([text("0123456789")], tokenizer, max_length=100))
    parts = list(encode([text("0123456789")], tokenizer, max_length=length))
    assert np.concatenate([part.input_ids[part.loss_mask] for part in parts]).tolist() == whole.input_ids[1:].tolist()
    assert max(len(part.input_ids) for part in parts) <= length
    assert [part.part for part in parts] == list(range(len(parts)))


def test_without_a_template_a_completion_follows_its_bare_prompt(make_tokenizer):
    assert shown(pair("Q: Hi\nA:", " Yo"), make_tokenizer()) == ["Q: Hi\nA:⟦ Yo<|end|>⟧"]


def test_a_plain_prompt_has_the_tokens_serving_makes_of_it_alone(make_tokenizer):
    tokenizer = make_tokenizer(merges=[("=", "4")])  # as one text, "2+2=4" would end in the token "=4"
    (example,) = encode([pair("2+2=", "4")], tokenizer, max_length=100)
    assert example.input_ids[~example.loss_mask].tolist() == tokenizer("2+2=").input_ids
    assert in_brackets(example, tokenizer) == "2+2=⟦4<|end|>⟧"


def test_a_completion_on_a_sentencepiece_base_gets_no_space_of_its_own(stories260k):
    (example,) = encode([pair("Once upon", " a time")], stories260k, max_length=100)
    assert example.input_ids.tolist() == [*stories260k("Once upon a time").input_ids, stories260k.eos_token_id]


def test_earlier_answers_of_a_plain_prompt_are_learned_and_ended_too(make_tokenizer):
    turns = (Message("user", "a"), Message("assistant", "b", bears_loss=True), Message("user", "c"))
    record = Record(Path("a"), 1, prompt=Prompt(turns, ("a:", "b", "c:")), completion="d")
    assert shown(record, make_tokenizer()) == ["a:⟦b<|end|>⟧c:⟦d<|end|>⟧"]


def test_only_the_first_of_several_plain_prompts_begins_the_text(stories260k):
    turns = (Message("user", "a"), Message("assistant", "b", bears_loss=True), Message("user", "c"))
    record = Record(Path("a"), 1, prompt=Prompt(turns, ("a", " b", "c")), completion=" d")
    (example,) = encode([record], stories260k, max_length=100)
    assert example.input_ids.tolist().count(stories260k.bos_token_id) == 1


def test_the_plain_rendering_can_be_printed(make_tokenizer):
    assert rendering_of(pair("Q:", "A"), make_tokenizer()) == (
        "plain prompt (the base has no chat template), answers end with <|end|>:\nQ:A<|end|>"
    )


def test_a_long_record_is_cut_and_counted(make_tokenizer):
    counts = Counts()
    (example,) = encode([pair("12", "3456")], make_tokenizer(), max_length=4, counts=counts)
    assert (len(example.input_ids), example.was_cut) == (4, True)
    assert counts == Counts(records=1, examples=1, cut=1, tokens=4, loss_tokens=2, longest=7)


def test_a_long_record_is_skipped_and_counted_where_the_recipe_says_so(make_tokenizer):
    counts = Counts()
    records = [pair("12", "3456"), pair("1", "2")]
    (example,) = encode(records, make_tokenizer(), max_length=4, on_long="skip", counts=counts)
    assert len(example.input_ids) == 3  # 1, 2, end of text
    assert (counts.records, counts.skipped_long, counts.skipped) == (2, 1, 1)


def test_a_long_record_is_an_error_where_the_recipe_says_so(make_tokenizer):
    with pytest.raises(UserError, match=r"a.jsonl:9: this record has 7 tokens, more than max_length 4"):
        list(encode([pair("12", "3456", line=9)], make_tokenizer(), max_length=4, on_long="error"))


def test_a_prompt_that_leaves_no_room_for_an_answer_is_skipped_and_counted(make_tokenizer):
    counts = Counts()
    examples = list(encode([pair("1234", "5"), pair("1", "2")], make_tokenizer(), max_length=4, counts=counts))
    assert len(examples) == 1 and (counts.skipped_empty, counts.cut) == (1, 0)


def test_an_empty_text_is_skipped_and_counted(make_tokenizer):
    counts = Counts()
    list(encode([text(" \n"), text("Hi")], make_tokenizer(), max_length=8, counts=counts))
    assert (counts.records, counts.examples, counts.skipped_empty) == (2, 1, 1)


def test_records_of_which_no_token_bears_loss_are_refused(make_tokenizer):
    with pytest.raises(UserError, match=r"a.jsonl: no token bears loss in any of 2 records: there is nothing to learn"):
        list(encode([pair("1234", "5"), pair("5678", "9")], make_tokenizer(), max_length=4))


def test_records_keep_their_order_through_batches_of_mixed_kinds(chatml):
    records = [text("a"), pair("b", "c"), text("d"), pair("e", "f")] * 200
    firsts = [chatml.decode(example.input_ids[:1]) for example in encode(records, chatml, max_length=100)]
    assert firsts == ["a", "<|im_start|>", "d", "<|im_start|>"] * 200


def test_examples_are_compact(make_tokenizer):
    (example,) = encode([text("Hi")], make_tokenizer(), max_length=8)
    assert (example.input_ids.dtype, example.loss_mask.dtype) == (np.int32, np.bool_)


def test_a_base_without_an_end_of_text_token_is_refused(make_tokenizer):
    tokenizer = make_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(UserError, match="eos_token: this base's tokenizer names no end-of-text token"):
        list(encode([text("Hi")], tokenizer, max_length=8))
