"""Built-in rewards, each by hand."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fettle.data.record import Message, Prompt, Record
from fettle.errors import UserError
from fettle.recipe.rewards import RewardSpec
from fettle.rl.rewards.builtins import Builtin, check_records, number_in, repeated_share, too_long

GSM8K = "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\nIn all 48+24 = <<48+24=72>>72 clips.\n#### 72"


def record(line: int = 1, **columns: Any) -> Record:
    return Record(
        Path("p.jsonl"), line, prompt=Prompt((Message("user", "How many?"),), ("How many?",)), columns=columns
    )


def score(rollout: Any, text: str, told: dict[str, Any], *, of: Record | None = None, **tokens: Any) -> float:
    (found,) = Builtin(RewardSpec.model_validate(told)).score([rollout(text=text, **tokens)], [of or record()])
    return found


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("#### 42", "42"),
        (GSM8K, "72"),
        ("It is 40, no, #### 1,234 clips", "1234"),
        ("#### 5 #### 6 of 7", "6"),
        ("so there are 3 and then 42.", "42"),
        ("1,234,567.50 in all", "1234567.5"),
        ("1, 2, 3", "3"),
        ("1,2", "2"),
        ("#### -7", "-7"),
        ("#### −7", "-7"),
        ("#### +7", "7"),
        ("10-4", "4"),
        ("(3)-4", "4"),
        ("x = -4", "-4"),
        ("-$1,000", "-1000"),
        ("$1,000.25", "1000.25"),
        ("42%", "42"),
        (".5", "0.5"),
        ("2.5e3", "2500"),
        ("12,34", "34"),
    ],
)
def test_the_number_in_a_text(text: str, number: str) -> None:
    assert number_in(text) == Decimal(number)


@pytest.mark.parametrize("text", ["", "none at all", "42 is it? #### unknown"])
def test_a_text_without_a_result_has_no_number(text: str) -> None:
    assert number_in(text) is None


@pytest.mark.parametrize(
    ("text", "reward"),
    [("#### 72", 1.0), ("I think 72.0", 1.0), ("#### 27", 0.0), ("72 #### 71", 0.0), ("no idea", 0.0)],
)
def test_exact_number_is_right_or_wrong(rollout, text: str, reward: float) -> None:
    assert score(rollout, text, {"builtin": "exact_number"}, of=record(answer=GSM8K)) == reward


def test_exact_number_compares_with_the_column_that_is_named(rollout) -> None:
    told = {"builtin": "exact_number", "column": "target"}
    assert score(rollout, "#### 1,000", told, of=record(target=1000, answer="#### 5")) == 1.0


def test_exact_number_compares_with_the_rollouts_own_prompt(rollout) -> None:
    scorer = Builtin(RewardSpec(builtin="exact_number"))
    rollouts = [rollout(1, 0, text="#### 5"), rollout(0, 0, text="#### 5"), rollout(1, 1, text="#### 4")]
    assert scorer.score(rollouts, [record(answer="4"), record(answer="5")]) == [1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"answr": "5"},
            "p.jsonl:7: answer: this record has no column answer for exact_number to compare with (did you",
        ),
        ({"answer": "five"}, "p.jsonl:7: answer: no number in 'five'"),
    ],
)
def test_a_record_without_a_right_answer_is_told_with_its_line(columns, message) -> None:
    with pytest.raises(UserError, match=r"^p.jsonl:7") as caught:
        check_records(RewardSpec(builtin="exact_number"), [record(3, answer="5"), record(7, **columns)])
    assert str(caught.value).startswith(message)


def test_records_are_not_asked_for_what_no_reward_needs() -> None:
    check_records(RewardSpec(builtin="repetition"), [record()])


@pytest.mark.parametrize(("text", "reward"), [("so the answer is 5", 1.0), ("Answer: 5", 0.0), ("", 0.0)])
def test_regex_is_looked_for_anywhere(rollout, text: str, reward: float) -> None:
    assert score(rollout, text, {"builtin": "regex", "pattern": r"answer is \d"}) == reward


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        ("<think>a\nb</think>\n<answer>5</answer>", 1.0),
        (" <think></think><answer>5 < 6</answer> ", 1.0),
        ("<answer>5</answer><think>a</think>", 0.0),
        ("Well: <think>a</think><answer>5</answer>", 0.0),
        ("<think>a</think> so <answer>5</answer>", 0.0),
        ("<think>a</think><answer>5</answer><answer>6</answer>", 0.0),
        ("<think>a<think>b</think><answer>5</answer>", 0.0),
        ("<think>a</think><answer>5", 0.0),
    ],
)
def test_format_wants_each_tag_once_in_order_and_nothing_around(rollout, text: str, reward: float) -> None:
    assert score(rollout, text, {"builtin": "format"}) == reward


def test_format_takes_other_tags(rollout) -> None:
    assert score(rollout, "<plan>a</plan>", {"builtin": "format", "tags": ("plan",)}) == 1.0


@pytest.mark.parametrize(("tokens", "reward"), [(0, 0.0), (80, 0.0), (85, -0.25), (90, -0.5), (100, -1.0), (500, -1.0)])
def test_an_answer_that_is_too_long_costs_more_and_more(tokens: int, reward: float) -> None:
    assert too_long(tokens, 100, 20) == pytest.approx(reward)


def test_length_counts_the_policys_own_tokens(rollout) -> None:
    told = {"builtin": "length", "max_tokens": 4, "cushion": 2}
    assert score(rollout, "", told, mask=[1, 0, 0, 0, 1, 1]) == -0.5


@pytest.mark.parametrize(
    ("tokens", "n", "share"),
    [
        ([1, 2, 3, 4], 2, 0.0),
        ([1, 2, 1, 2, 1], 2, 0.5),  # 12, 21, 12, 21: two of four
        ([5, 5, 5, 5], 1, 0.75),
        ([5, 5, 5, 5], 3, 0.5),
        ([5, 5], 3, 0.0),
        ([], 1, 0.0),
    ],
)
def test_the_share_of_repeated_n_grams(tokens: list[int], n: int, share: float) -> None:
    assert repeated_share(np.array(tokens, np.int32), n) == share


def test_repetition_costs_its_share_of_the_policys_own_tokens(rollout) -> None:
    tokens = {"output_ids": [5, 9, 9, 5, 5], "mask": [1, 0, 0, 1, 1]}
    assert score(rollout, "", {"builtin": "repetition", "n": 1}, **tokens) == pytest.approx(-2 / 3)
