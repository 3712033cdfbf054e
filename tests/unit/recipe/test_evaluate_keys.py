"""The keys of `evaluate`, by kind."""

from __future__ import annotations

import pytest

from fettle.recipe.evaluate import GenerateSpec, LossSpec, RetentionSpec

ONE = "name: a\nstages:\n  - {name: task, kind: sft, data: x.jsonl}\nevaluate:\n"


def test_each_kind_has_keys_of_its_own(load):
    recipe = load(
        ONE + "  - {kind: generate, data: a.jsonl, at_least: {rouge1: 0.3}}\n"
        "  - {kind: loss, data: b.txt, at_most: {loss: 2, perplexity: 7.5}, gain: {loss: 0.1}}\n"
        "  - {kind: retention, data: {path: c.jsonl, limit: 9}, budget: 0.02}\n"
    )
    answered, lost, kept = recipe.evaluate
    assert isinstance(answered, GenerateSpec) and answered.metrics == ("rouge",)
    assert isinstance(lost, LossSpec) and (lost.at_most, lost.gain) == ({"loss": 2.0, "perplexity": 7.5}, {"loss": 0.1})
    assert isinstance(kept, RetentionSpec) and (kept.data.limit, kept.budget) == (9, 0.02)


def test_answers_that_were_kept_are_found_by_the_same_settings_as_ever(load):
    (spec,) = load(ONE + "  - {kind: generate, data: a.jsonl, gain: {rouge1: 0.3}}\n").evaluate
    # pipeline/answering.py hashes these: another key would have every answer written again.
    assert spec.settings() == {
        "kind": "generate",
        "metrics": ["rouge"],
        "limit": None,
        "max_new_tokens": 128,
        "max_length": None,
    }


def test_an_evaluation_can_be_set_from_outside(load):
    recipe = load(ONE + "  - {kind: retention, data: c.jsonl}\n", evaluate__0__budget="0.1")
    assert recipe.evaluate[0].budget == 0.1


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (
            "{kind: los, data: x}",
            "kind: unknown kind 'los' (did you mean 'loss'?)\n  expected: generate, loss, retention",
        ),
        ("{data: x}", "kind: an evaluation has a kind\n  expected: generate, loss, retention"),
        ("{kind: loss}", "data: this key is missing"),
        ("{kind: loss, data: x, at_mots: {loss: 1}}", "at_mots: unknown key (did you mean 'at_most'?)"),
        (
            "{kind: loss, data: x, metrics: [rouge]}",
            "metrics: unknown key\n  expected: one of kind, data, limit, max_le",
        ),
        ("{kind: retention, data: x, bugdet: 0.1}", "bugdet: unknown key (did you mean 'budget'?)"),
        ("{kind: retention, data: {path: x, limti: 2}}", "data.limti: unknown key (did you mean 'limit'?)"),
        ("{kind: retention, data: x, budget: -1}", "budget: input should be greater than or equal to 0, not -1"),
        ("{kind: generate, data: x, at_most: {rouge1: 1}}", "at_most: unknown key (did you mean 'at_least'?)"),
    ],
)
def test_a_mistake_is_told_with_its_line_and_the_nearest_key(told, written, message):
    assert told(ONE + f"  - {written}\n").startswith(f"recipe.yaml:5: evaluate.0.{message}")


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (
            "{kind: loss, data: x, at_most: {los: 1}}",
            "at_most: no score 'los' is measured here; there is loss, perplexity",
        ),
        ("{kind: loss, data: x, gain: {rouge1: 1}}", "gain: no score 'rouge1' is measured here; there is loss, perpl"),
        (
            "{kind: generate, data: x, gain: {f1: 1}}",
            "gain: no score 'f1' is measured here; there is rouge1, rouge2, r",
        ),
    ],
)
def test_a_bound_on_what_is_not_measured_is_told_with_what_is(told, written, message):
    assert told(ONE + f"  - {written}\n").startswith(f"recipe.yaml:5: evaluate.0: {message}")


def test_a_pattern_is_part_of_what_decides(load):
    (spec,) = load(ONE + "  - {kind: generate, data: a.jsonl, metrics: [regex], pattern: '[0-9]+'}\n").evaluate
    assert spec.settings()["pattern"] == "[0-9]+"


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("{kind: generate, data: x, metrics: [regex]}", "metrics: regex and pattern: EXPRESSION go together"),
        ("{kind: generate, data: x, pattern: a}", "metrics: regex and pattern: EXPRESSION go together"),
        ("{kind: generate, data: x, metrics: [regex], pattern: '(a'}", "pattern: missing ) at position 2"),
        ("{kind: generate, data: x, few_shot: 0, shots: y}", "shots has no effect with few_shot: 0"),
    ],
)
def test_a_key_that_cannot_be_meant_is_told(told, written, message):
    assert told(ONE + f"  - {written}\n").startswith(f"recipe.yaml:5: evaluate.0: {message}")
