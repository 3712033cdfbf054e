"""Showing tokens: nothing left out, characters whole, special tokens and line ends visible."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fettle.data.encode import Example, encode
from fettle.data.record import Message, Record
from fettle.data.show import GIVEN, LEARNED, SPECIAL, caption, in_brackets, in_colour, legend, pieces

TEXT = "Grüße, 世界 🙂\n\nzwei  Räume"


def chat(*said: str) -> Record:
    roles = ("user", "assistant")
    turns = [Message(roles[i % 2], words, bears_loss=i % 2 == 1) for i, words in enumerate(said)]
    return Record(Path("a.jsonl"), 3, messages=tuple(turns))


def first(record: Record, tokenizer, max_length: int = 1000) -> Example:
    return next(encode([record], tokenizer, max_length=max_length))


def test_brackets_stand_around_what_bears_loss_and_nothing_else_is_changed(chatml):
    shown = in_brackets(first(chat("Hi", TEXT), chatml), chatml)
    assert shown == f"<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n⟦{TEXT}<|im_end|>⟧\n"


@pytest.mark.parametrize("base", ["base_8m", "stories260k"])
def test_without_the_brackets_it_is_the_text_the_model_sees(request, base):
    tokenizer = request.getfixturevalue(base)
    example = first(Record(Path("a"), 1, text=TEXT), tokenizer)
    shown = in_brackets(example, tokenizer).replace("⟦", "").replace("⟧", "")
    assert shown == tokenizer.decode(example.input_ids) and TEXT in shown


def test_every_token_is_in_a_piece_and_no_character_is_torn(chatml):
    example = first(chat("Hi", "世"), chatml)
    shown = list(pieces(example, chatml))
    assert sum(piece.num_tokens for piece in shown) == len(example.input_ids)
    assert [piece.num_tokens for piece in shown if piece.text == "世"] == [3]  # a token a byte


def test_half_a_character_at_the_end_of_a_cut_is_still_shown(chatml):
    whole = first(chat("Hi", "世世"), chatml)
    example = Example(whole.input_ids[:-4], whole.loss_mask[:-4], whole.file, whole.line)  # one byte of the second left
    assert in_brackets(example, chatml).endswith("⟦世�⟧")


def test_half_a_character_before_a_change_of_the_mask_keeps_its_side(chatml):
    ids = chatml("世").input_ids[:1] + chatml("a").input_ids
    example = Example(np.asarray(ids, np.int32), np.asarray([False, True]), Path("a"), 1)
    assert in_brackets(example, chatml) == "�⟦a⟧"


def test_colour_marks_learned_given_and_special_tokens_and_line_ends(chatml):
    shown = in_colour(first(chat("Hi", "Yo"), chatml), chatml)
    styled = [(shown.plain[span.start : span.end], str(span.style)) for span in shown.spans]
    assert styled == [
        ("<|im_start|>", f"{GIVEN} {SPECIAL}"),
        ("user↵\nHi", GIVEN),
        ("<|im_end|>", f"{GIVEN} {SPECIAL}"),
        ("↵\n", GIVEN),
        ("<|im_start|>", f"{GIVEN} {SPECIAL}"),
        ("assistant↵\n", GIVEN),
        ("Yo", LEARNED),
        ("<|im_end|>", f"{LEARNED} {SPECIAL}"),
        ("↵\n", GIVEN),
    ]


def test_the_caption_says_where_from_how_long_and_how_much_is_learned(chatml):
    assert caption(first(chat("Hi", "Yo"), chatml)) == "a.jsonl:3: 25 tokens, 3 bear loss (12%)"
    assert caption(first(chat("Hi", "Yo" * 9), chatml, max_length=24)) == "a.jsonl:3: 24 tokens, 3 bear loss (12%), cut"


def test_the_legend_names_the_marks():
    assert legend(in_colour=False).plain == "⟦learned⟧, given"
    assert "<special>" in legend(in_colour=True).plain
