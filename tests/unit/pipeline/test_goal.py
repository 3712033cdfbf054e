"""Was tuning worth it: the goal in a line, and the untuned base after examples beside the result."""

from __future__ import annotations

from pathlib import Path

import pytest

from fettle.pipeline.evaluated import Comparison, Evaluation
from fettle.pipeline.gate import Check, goal
from fettle.pipeline.report import Report, evaluation_table, unearned


@pytest.mark.parametrize(
    ("check", "told"),
    [
        (Check("a.jsonl", "rouge1", False, 0.21, 0.3), "goal not met: rouge1 0.210, wanted 0.300"),
        (Check("a.jsonl", "f1", True, 0.02, 0.1), "goal not met: f1 +0.020 over the base, wanted +0.100"),
        (Check("a.txt", "loss", False, 2.5, most=2, is_loss=True), "goal not met: loss 2.500, wanted at most 2.000"),
        (Check("a.jsonl", "f1", False, 0.29996, 0.3), "goal not met: f1 0.299960, wanted 0.300000"),
        (Check("a.jsonl", "f1", False, 0.3, 0.3), "goal met"),
    ],
)
def test_the_goal_is_told_in_a_line(check, told):
    assert goal([check]) == told


def test_only_what_is_missed_is_told_and_nothing_where_nothing_is_wanted():
    checks = [Check("a", "f1", False, value, 0.5) for value in (0.6, 0.4, 0.3)]
    assert goal(checks) == "goal not met: f1 0.400, wanted 0.500; f1 0.300, wanted 0.500"
    assert goal([]) is None


def answered(model: str, mean: float, shots: int = 0) -> Evaluation:
    scores = {"f1": {"mean": mean, "low": mean - 0.05, "high": mean + 0.05, "records": 80}}
    return Evaluation(model, "heldout.jsonl", 80, 0, 0, 64, 1.5, scores, {}, shots=shots)


def test_the_base_after_examples_stands_below_what_it_says_without():
    one = Comparison(answered("base", 0.125), answered("task", 0.5), few_shot=answered("base", 0.25, shots=2))
    report = Report("say", Path("out"), 1.0, (), (one,), (Check("heldout.jsonl", "f1", False, 0.5, 0.4),))
    assert [list(column.cells) for column in evaluation_table(report).columns] == [
        ["heldout.jsonl", "  f1", "    after 2 examples"],
        ["base", "0.125 (0.075 to 0.175)", "0.250 (0.200 to 0.300)"],
        ["task", "0.500 (0.450 to 0.550)", ""],
    ]
    assert report.goal == "goal met"


def test_it_is_told_where_examples_alone_do_as_well():
    one = Comparison(answered("base", 0.125), answered("task", 0.25), few_shot=answered("base", 0.25, shots=2))
    assert unearned(Report("say", Path("out"), 1.0, (), (one,))) == [
        "base after 2 examples does no worse than task on heldout.jsonl: f1 0.250 and 0.250"
    ]
    other = Comparison(answered("base", 0.5), answered("task", 0.3), few_shot=answered("base", 0.2, shots=2))
    assert unearned(Report("say", Path("out"), 1.0, (), (other,))) == []
