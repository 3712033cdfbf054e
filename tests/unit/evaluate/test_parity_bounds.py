"""Engine against transformers, in numbers small enough to work out by hand, and what a difference comes from."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from fettle.engine.sampling import Read
from fettle.evaluate.parity import Facts, Parity, Reference, Speech, Way, compare, likely, seen

# Two prompts of two tokens with answers of two and of one.
REFERENCE = Reference(
    texts=((5, 6, 7, 8), (5, 9, 7)),
    begins=(2, 2),
    logprobs=((-1.0, -2.0, -3.0), (-1.0, -0.5)),
    dtype="float32",
)
SPEECH = Speech("aaaa", "bbbb", 100)
FACTS = Facts(SPEECH, SPEECH, prompts=2, prompts_alike=2, rows=100, architecture="LlamaForCausalLM", stored="bfloat16")
OF_ADAPTER = replace(FACTS, rank=16, engine_rank=16)


def against(first: tuple[float, ...], second: tuple[float, ...], likeliest: Any = None, **more: Any) -> Way:
    read = [Read(first, (False, True, True)), Read(second, likeliest or (False, True))]
    keys: dict[str, Any] = {"name": "vLLM", "numbers": "float32", "dtype": "float32", "answers": ((7, 8), (7,)), **more}
    return compare(REFERENCE, read=read, **keys)


def test_the_same_numbers_are_no_difference():
    way = against(*REFERENCE.logprobs)
    assert (way.largest, way.mean, way.agreement, way.answers_alike, way.is_met) == (0.0, 0.0, 1.0, 2, True)


def test_the_largest_difference_is_told_with_its_prompt_and_token():
    way = against((-1.0, -2.0, -3.0), (-1.0, -0.9))  # 0.4 nats at the third token of the second prompt
    assert (way.largest, way.place, way.is_met) == (pytest.approx(0.4), (2, 3), False)
    assert way.mean == pytest.approx(0.4 / 5)


def test_what_is_no_number_is_a_difference():
    assert not against((-1.0, float("nan"), -3.0), (-1.0, -0.5)).is_met


def test_agreement_counts_the_answers_tokens_alone():
    way = against(*REFERENCE.logprobs, likeliest=(False, False), answers=((7, 8), (3,)))  # two of three
    assert (way.agreement, way.answers_alike, way.is_met) == (pytest.approx(2 / 3), 1, False)


def test_rounded_weights_are_given_more_room_than_float32_ones():
    apart = (-1.0, -2.0, -3.1), (-1.0, -0.5)
    assert not against(*apart).is_met and against(*apart, numbers="rounded").is_met


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ({"changed": ("the weights: no longer match the digest",)}, "no longer match the digest"),
        ({"served": replace(SPEECH, template="cccc")}, "chat template: it was trained with aaaa .* served with cccc"),
        ({"served": replace(SPEECH, template=None)}, "chat template: .* served with none"),
        (
            {"served": replace(SPEECH, tokenizer="dddd"), "prompts_alike": 1},
            "the tokenizer: it was trained with bbbb .* served with dddd",
        ),
        ({"rows": 99}, "added tokens: the tokenizer has 100, and the embeddings have 99 rows"),
        ({"prompts_alike": 1}, "the prompts: 1 of 2 become other tokens"),
    ],
)
def test_what_the_files_alone_show(facts: dict[str, Any], why: str):
    (found,) = seen(replace(FACTS, **facts))
    assert re.search(why, found)


def test_files_that_are_as_in_training_show_nothing():
    assert seen(FACTS) == ()


def test_a_tokenizer_that_is_only_spelled_otherwise_makes_the_same_tokens():
    assert seen(replace(FACTS, served=replace(SPEECH, tokenizer="dddd"))) == ()


def far(name: str = "vLLM", **more: Any) -> Way:
    return against((-1.0, -2.0, -9.0), (-1.0, -0.5), name=name, **more)


@pytest.mark.parametrize(
    ("ways", "why"),
    [
        (
            (far(dtype="bfloat16", numbers="16 bits"),),
            "dtype: the engine computes in bfloat16, transformers in float32",
        ),
        (
            (against(*REFERENCE.logprobs), far("merged on vLLM", numbers="rounded")),
            "dtype: the weights are bfloat16, to which the update was rounded when it was merged",
        ),
        (
            (far("adapter on vLLM"), against(*REFERENCE.logprobs, numbers="rounded")),
            "the adapter: the engine applies it otherwise than PEFT (its rank is 16, the engine built for 16)",
        ),
        ((far(),), "the engine computes a LlamaForCausalLM otherwise than transformers"),
    ],
)
def test_what_a_difference_comes_from(ways: tuple[Way, ...], why: str):
    assert likely(OF_ADAPTER, "float32", ways)[0].startswith(why)


def test_engines_within_their_bounds_have_no_cause():
    assert likely(OF_ADAPTER, "float32", (against(*REFERENCE.logprobs),)) == ()


def test_the_reason_names_numbers_bounds_and_cause_in_one_line():
    ways = (far(),)
    found = Parity("support", "asked.jsonl", 5, "float32", FACTS, ways, likely(FACTS, "float32", ways), 1.0)
    assert not found.is_met and "\n" not in found.why_not
    assert "vLLM: log-probabilities differ by 6 nats, at most 0.001 wanted; 100.0% of the tokens agree" in found.why_not
    assert found.why_not.endswith("likely cause: the engine computes a LlamaForCausalLM otherwise than transformers")
