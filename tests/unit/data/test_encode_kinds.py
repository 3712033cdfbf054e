"""Records of which a model reads several texts, or learns none by its tokens."""

from __future__ import annotations

from pathlib import Path

import pytest

from fettle.data.encode import Counts, encode
from fettle.data.record import Answer, Message, Prompt, Record
from fettle.data.show import caption, in_brackets

FILE = Path("a.jsonl")
ASKED = Prompt((Message("user", "Q"),), ("Q:",))
OPENING = "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n"
CALL = {"type": "function", "function": {"name": "f", "arguments": {}}}


def answer(*said: str) -> Answer:
    return Answer(tuple(Message("assistant", words, bears_loss=True) for words in said))


PREFERENCE = Record(FILE, 1, prompt=ASKED, answers=(answer("Yo"), answer("No")))
RANKED = Record(FILE, 1, prompt=ASKED, answers=(answer("1"), answer("2"), answer("3")))
GOOD = Record(FILE, 1, prompt=ASKED, answers=(answer("Yo"),), label=True)
BAD = Record(FILE, 1, prompt=ASKED, answers=(answer("Yo"),), label=False)
STEPS = Record(FILE, 1, prompt=ASKED, steps=("First.", "Then."), label=(True, False))
PROMPT = Record(FILE, 1, prompt=ASKED)
LABEL = Record(FILE, 1, text="Fine.", label="good")


def shown(record: Record, tokenizer, **more) -> list[tuple[str, str]]:
    examples = encode([record], tokenizer, **({"max_length": 1000} | more))
    return [(example.name, in_brackets(example, tokenizer)) for example in examples]


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (PREFERENCE, [("chosen", "⟦Yo<|im_end|>⟧\n"), ("rejected", "⟦No<|im_end|>⟧\n")]),
        (RANKED, [(f"answer {n}", f"⟦{n}<|im_end|>⟧\n") for n in (1, 2, 3)]),
        (GOOD, [("good", "⟦Yo<|im_end|>⟧\n")]),
        (BAD, [("bad", "⟦Yo<|im_end|>⟧\n")]),
        (STEPS, [("steps", "⟦First.\nThen.<|im_end|>⟧\n")]),
        (PROMPT, [("", "")]),
    ],
)
def test_each_answer_is_a_text_of_its_own_after_the_prompt(chatml, record, expected):
    assert shown(record, chatml) == [(name, OPENING + said) for name, said in expected]


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (PREFERENCE, ["Q:⟦Yo<|end|>⟧", "Q:⟦No<|end|>⟧"]),
        (STEPS, ["Q:⟦First.\nThen.<|end|>⟧"]),
        (PROMPT, ["Q:"]),
        (LABEL, ["Fine."]),
    ],
)
def test_without_a_template_they_are_plain(make_tokenizer, record, expected):
    assert [said for _, said in shown(record, make_tokenizer())] == expected


def test_an_answer_of_several_turns_is_learned_in_each_of_the_assistants(chatml):
    turns = (Message("assistant", "A", True), Message("user", "B"), Message("assistant", "C", True))
    record = Record(FILE, 1, prompt=ASKED, answers=(Answer(turns), answer("D")))
    (_, chosen), _ = shown(record, chatml)
    assert chosen.count("⟦") == 2 and chosen.endswith("⟦C<|im_end|>⟧\n")


def test_earlier_answers_of_a_plain_prompt_bear_loss_only_if_they_are_to(make_tokenizer):
    turns = (Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
    record = Record(FILE, 1, prompt=Prompt(turns, ("a:", "b", "c:")), answers=(answer("d"), answer("e")))
    assert [said for _, said in shown(record, make_tokenizer())] == [f"a:b<|end|>c:⟦{one}<|end|>⟧" for one in "de"]


@pytest.mark.parametrize("record", [PROMPT, LABEL])
def test_records_that_are_not_learned_by_their_tokens_bear_no_loss_and_that_is_no_error(chatml, record):
    counts = Counts()
    (example,) = encode([record], chatml, max_length=1000, counts=counts)
    assert not example.loss_mask.any()
    assert (counts.records, counts.examples, counts.loss_tokens, counts.skipped) == (1, 1, 0, 0)


def test_a_text_to_be_classified_is_cut_and_not_split(chatml):
    (example,) = encode([LABEL], chatml, max_length=3)
    assert example.was_cut and in_brackets(example, chatml) == "Fin"


def test_answers_are_counted_as_one_record_and_cut_once(chatml):
    counts = Counts()
    record = Record(FILE, 1, prompt=ASKED, answers=(answer("Yo" * 9), answer("No" * 8)))
    chosen, rejected = encode([record], chatml, max_length=30, counts=counts)
    assert (chosen.was_cut, rejected.was_cut, counts.records, counts.examples, counts.cut) == (True, True, 1, 2, 1)
    assert counts.longest == 20 + 18 + 2  # a token a byte: the prompt, the longer answer, its end and the line's


@pytest.mark.parametrize(("on_long", "reason"), [("skip", "skipped_long"), ("cut", "skipped_empty")])
def test_a_record_is_skipped_whole_where_one_of_its_answers_has_to_be(chatml, on_long, reason):
    counts = Counts()
    long = Record(FILE, 1, prompt=Prompt((Message("user", "Q" * 50),)), answers=(answer("Yo"), answer("No")))
    examples = list(encode([PREFERENCE, long], chatml, max_length=40, on_long=on_long, counts=counts))
    assert [example.name for example in examples] == ["chosen", "rejected"]
    assert (counts.records, counts.examples, getattr(counts, reason), counts.cut) == (2, 2, 1, 0)


def test_the_caption_says_which_answer_it_is(chatml):
    first, second = encode([PREFERENCE], chatml, max_length=1000)
    assert caption(second) == caption(first).replace("chosen", "rejected")
    assert caption(second).startswith("a.jsonl:1, rejected: 24 tokens, 3 bear loss")
