"""Records for encoder-decoder models: prompts and answers as texts by themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from fettle.data.encode import Counts, Example, encode
from fettle.data.halves import split
from fettle.data.record import Message, Prompt, Record
from fettle.errors import UserError

MakeTokenizer = Callable[..., PreTrainedTokenizerBase]


def pair(asked: str, answer: str) -> Record:
    return Record(Path("a.jsonl"), 1, prompt=Prompt((Message("user", asked),), (asked,)), completion=answer)


def chat(*texts: str) -> Record:
    turns = [Message("user" if n % 2 == 0 else "assistant", text, n % 2 == 1) for n, text in enumerate(texts)]
    return Record(Path("a.jsonl"), 1, messages=tuple(turns))


def halved(record: Record, tokenizer: PreTrainedTokenizerBase, max_length: int = 100, **how: Any) -> list[Example]:
    return list(encode([record], tokenizer, max_length=max_length, is_halved=True, must_learn=False, **how))


def as_text(example: Example, tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    prompt, answer = split(example.input_ids, example.loss_mask)
    return tokenizer.decode(prompt), tokenizer.decode(answer)


def test_a_prompt_and_its_answer_are_each_a_text_with_an_end(make_tokenizer: MakeTokenizer) -> None:
    (example,) = halved(pair("2+2=", "4"), tokenizer := make_tokenizer())

    assert as_text(example, tokenizer) == ("2+2=<|end|>", "4<|end|>")


def test_all_before_the_last_answer_is_the_prompt(make_tokenizer: MakeTokenizer) -> None:
    turns = (Message("user", "A"), Message("assistant", "B", True), Message("user", "C"))
    record = Record(Path("a.jsonl"), 1, prompt=Prompt(turns, ("A\n", "B", "C\n")), completion="D")

    (example,) = halved(record, tokenizer := make_tokenizer())

    assert as_text(example, tokenizer) == ("A\nBC\n<|end|>", "D<|end|>")


def test_through_a_chat_template_the_answer_ends_with_its_turn(chatml: PreTrainedTokenizerBase) -> None:
    (example,) = halved(chat("A", "B", "C", "D"), chatml)

    before = "<|im_start|>user\nA<|im_end|>\n<|im_start|>assistant\nB<|im_end|>\n<|im_start|>user\nC<|im_end|>\n"
    assert as_text(example, chatml) == (f"{before}<|im_start|>assistant\n<|end|>", "D<|im_end|>")


def test_each_half_is_cut_by_itself_and_a_prompt_keeps_its_end(make_tokenizer: MakeTokenizer) -> None:
    counts = Counts()

    (example,) = halved(pair("0123456789", "abcdefghij"), tokenizer := make_tokenizer(), 8, counts=counts)

    assert as_text(example, tokenizer) == ("0123456<|end|>", "abcdefgh")
    assert (example.was_cut, counts.cut, counts.longest) == (True, 1, 11)


def test_halves_that_fit_are_not_cut_however_long_they_are_together(make_tokenizer: MakeTokenizer) -> None:
    (example,) = halved(pair("0123456", "abcdefg"), make_tokenizer(), 8)

    assert (len(example.input_ids), example.was_cut) == (16, False)


def test_a_long_half_is_skipped_or_refused_where_the_recipe_says_so(make_tokenizer: MakeTokenizer) -> None:
    counts = Counts()

    assert halved(pair("0123456789", "a"), make_tokenizer(), 8, on_long="skip", counts=counts) == []
    assert counts.skipped_long == 1
    with pytest.raises(UserError, match="this record has 11 tokens, more than max_length 8"):
        halved(pair("0123456789", "a"), make_tokenizer(), 8, on_long="error")


def test_text_is_split_without_an_overlap(make_tokenizer: MakeTokenizer) -> None:
    parts = halved(Record(Path("a.txt"), 1, text="0123456789"), tokenizer := make_tokenizer(), 8)

    assert [tokenizer.decode(part.input_ids) for part in parts] == ["<s>0123456"[3:] + "7", "89<|end|>"]


def test_an_answer_that_is_not_to_be_learned_gives_nothing(chatml: PreTrainedTokenizerBase) -> None:
    turns = (Message("user", "A"), Message("assistant", "B", bears_loss=False))
    counts = Counts()

    assert halved(Record(Path("a.jsonl"), 1, messages=turns), chatml, counts=counts) == []
    assert counts.skipped_empty == 1
