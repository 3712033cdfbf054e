"""Pairs of answers that a judge compares, and what a gate says of a model that is not the base."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from judge_server import JudgeServer, answers_in, judge_server

from fettle.data.record import Message, Prompt, Record
from fettle.errors import UserError
from fettle.evaluate.endpoint import Endpoint
from fettle.evaluate.harness import Told
from fettle.pipeline.answered import Answered
from fettle.pipeline.gate import Check
from fettle.pipeline.harness import check_scores
from fettle.pipeline.judged import compared, request_of
from fettle.recipe.judged import HarnessSpec

VERDICTS = {
    ("good", "bad"): "[[A]]",
    ("bad", "good"): "[[B]]",
    ("first", "whoever"): "[[A]]",
    ("whoever", "first"): "[[A]]",
    ("as", "well"): "[[C]]",
    ("well", "as"): "[[C]]",
}


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Iterator[JudgeServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with judge_server(lambda question: VERDICTS.get(answers_in(question), "Who knows?")) as server:
        yield server


def answered(name: str, *texts: str) -> Answered:
    return Answered(name, texts, 0, 0, 0.0)


def test_each_pair_is_asked_in_both_orders_and_none_of_equal_answers(judge: JudgeServer, tmp_path: Path) -> None:
    own = answered("mine", "good", "bad", "same", "first", "as", "odd")
    other = answered("base", "bad", "good", "same", "whoever", "well", "even")
    asked = [Record(Path("p.jsonl"), line, prompt=Prompt((Message("user", "Why?"),))) for line in range(1, 7)]

    found = compared(Endpoint(judge.url, "m"), asked, own, other, "wit", tmp_path, lambda text: None)

    assert found == ["won", "lost", "tied", "inconsistent", "tied", "unparsed"]
    assert len(judge.asked) == 8  # five pairs twice; the second is the first turned round
    (file,) = tmp_path.glob("mine-judged-*.jsonl")
    rows: list[dict[str, Any]] = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["line"] for row in rows] == [1, 2, 4, 5, 6]
    assert (rows[0]["answer"], rows[0]["other"], rows[0]["as_a"], rows[0]["as_b"]) == ("good", "bad", "[[A]]", "[[B]]")


def test_a_conversation_is_shown_with_who_says_what() -> None:
    turns = (Message("user", "Hello?"), Message("assistant", "Yes?"), Message("user", "Why?"))

    assert request_of(Record(Path("p"), 1, prompt=Prompt(turns[-1:]))) == "Why?"
    assert request_of(Record(Path("p"), 1, prompt=Prompt(turns))) == "user: Hello?\n\nassistant: Yes?\n\nuser: Why?"


def test_a_gain_names_the_model_it_is_over() -> None:
    check = Check("prompts.jsonl", "score", True, 0.25, 0.5, than="support@production")

    assert str(check) == "score on prompts.jsonl: +0.250 over support@production, at least +0.500 wanted"


@pytest.mark.parametrize(
    ("bounds", "got"),
    [
        ({"at_least": {"trains.acy": 0.5}}, r"no score 'trains.acy' .*did you mean 'trains.acc'"),
        ({"gain": {"perplexity": 1}}, "no score 'perplexity' is measured by these tasks"),
        ({"at_least": {"words.perplexity": 9}}, "at_least bounds words.perplexity, of which less is better"),
    ],
)
def test_a_bound_is_on_what_the_tasks_measure_and_from_the_right_side(bounds: Any, got: str) -> None:
    told = Told(("trains.acc", "words.perplexity"), falling=("words.perplexity",), records=9)
    check_scores(
        HarnessSpec(kind="harness", tasks=("t",), at_most={"words.perplexity": 9}, gain={"trains.acc": 0}), told
    )

    with pytest.raises(UserError, match=got):
        check_scores(HarnessSpec(kind="harness", tasks=("t",), **bounds), told)
