"""The keys of the evaluations that somebody judges: a reward model, a language model, lm-evaluation-harness."""

from __future__ import annotations

import pytest

from fettle.recipe.judged import HarnessSpec, JudgeSpec, ScoredSpec

ONE = "name: a\nstages:\n  - {name: task, kind: sft, data: x.jsonl}\nevaluate:\n"
JUDGE = "kind: judge, data: x, model: m"


def test_each_kind_has_keys_of_its_own(load):
    scored, judged, put = load(
        ONE + "  - {kind: reward, data: a.jsonl, model: taste, at_least: {win_rate: 0.6}, gain: {score: 0}}\n"
        "  - {kind: judge, data: a.jsonl, url: 'http://127.0.0.1:8000/v1/', model: big, key_env: JUDGE_KEY,"
        " parameters: {max_completion_tokens: 900}, against: support@production}\n"
        "  - {kind: harness, tasks: [tasks], gain: {trains.acc: 0.1}, at_most: {words.word_perplexity: 9}}\n"
    ).evaluate
    assert isinstance(scored, ScoredSpec) and (scored.against, scored.temperature) == ("base", 0)
    assert isinstance(judged, JudgeSpec) and judged.parameters == {"max_completion_tokens": 900}
    assert isinstance(put, HarnessSpec) and put.bounded == ("words.word_perplexity", "trains.acc")


@pytest.mark.parametrize(
    "url", ["http://h:8000/v1", "http://h:8000/v1/", "http://h:8000/v1/chat/completions", "http://h:8000/v1/ "]
)
def test_an_address_is_that_of_the_api(load, url):
    (spec,) = load(ONE + f"  - {{{JUDGE}, url: {url}}}\n").evaluate
    assert spec.url == "http://h:8000/v1"


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("{kind: reward, data: x}", "model: this key is missing"),
        ("{kind: reward, data: x, model: y, agianst: z}", "agianst: unknown key (did you mean 'against'?)"),
        ("{kind: judge, data: x, url: 'http://a/v1'}", "model: this key is missing"),
        ("{kind: judge, data: x, url: a, model: m}", "url: an address begins with http:// or https://"),
        (f"{{{JUDGE}, url: 'https://me:secret@a/v1'}}", "url: no names and passwords in it: a key is an environment"),
        (f"{{{JUDGE}, url: 'http://a/v1', parameters: {{stream: true}}}}", "parameters: 'stream' is not to be said"),
        (f"{{{JUDGE}, url: 'http://a/v1', key_env: sk-123}}", "key_env: string should match pattern"),
        (f"{{{JUDGE}, url: 'http://a/v1', gain: {{win_rate: 1}}}}", "gain: unknown key"),
        ("{kind: harness, tasks: []}", "tasks: a list of at least 1, not of 0"),
        ("{kind: harness, data: x}", "data: unknown key"),
    ],
)
def test_a_mistake_is_told_with_its_line(told, written, message):
    assert told(ONE + f"  - {written}\n").startswith(f"recipe.yaml:5: evaluate.0.{message}")


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("{kind: reward, data: x, model: y, at_least: {rate: 1}}", "at_least: no score 'rate' is measured here; there"),
        ("{kind: reward, data: x, model: y, gain: {win_rate: 1}}", "gain: no score 'win_rate' is measured here; there"),
        (f"{{{JUDGE}, url: 'http://a/v1', at_least: {{score: 1}}}}", "at_least: no score 'score' is measured here"),
    ],
)
def test_a_bound_on_what_is_not_measured_is_told(told, written, message):
    assert told(ONE + f"  - {written}\n").startswith(f"recipe.yaml:5: evaluate.0: {message}")
