"""ROUGE, exact match and their intervals, small enough to do by hand."""

from __future__ import annotations

import pytest

from fettle.evaluate.metrics import scored, with_interval
from fettle.evaluate.patterns import found_in


def test_rouge_counts_words_pairs_and_the_longest_common_subsequence() -> None:
    found = scored(["the train leaves at nine"], [["the train leaves early at nine"]], ["rouge"])

    # 5 of 5 words are among 6: F = 2 · 1 · 5/6 / (1 + 5/6). Pairs: the train, train leaves, at nine: 3 of 4, and of 5.
    assert found["rouge1"].mean == pytest.approx(10 / 11)
    assert found["rouge2"].mean == pytest.approx(2 * (3 / 4) * (3 / 5) / (3 / 4 + 3 / 5))
    assert found["rougeL"].mean == pytest.approx(10 / 11)


def test_rouge_compares_stems() -> None:
    assert scored(["Trains leaving!"], [["train leaves"]], ["rouge"])["rouge2"].mean == 1


def test_of_several_right_answers_the_nearest_counts() -> None:
    found = scored(["a b", "c"], [["x", "a b"], ["c d"]], ["rouge", "exact_match"])

    assert found["rouge1"].mean == pytest.approx((1 + 2 / 3) / 2)  # c: 1 of 1, and of 2
    assert found["exact_match"].mean == 0.5


def test_a_match_is_exact_but_for_white_space_around_it() -> None:
    assert scored([" 42\n", "42.", "Forty"], [["42"], ["42"], ["forty"]], ["exact_match"])["exact_match"].mean == (
        pytest.approx(1 / 3)
    )


def test_an_interval_is_that_of_the_mean() -> None:
    found = with_interval([0.0] * 50 + [1.0] * 50, seed=0)

    # The standard error of a share of 0.5 of 100 is 0.05; 95 % lie within 1.96 of them.
    assert (found.mean, found.records) == (0.5, 100)
    assert (found.low, found.high) == (pytest.approx(0.402, abs=0.011), pytest.approx(0.598, abs=0.011))


def test_an_interval_is_the_same_for_the_same_seed() -> None:
    values = [0.1, 0.5, 0.2, 0.9, 0.4, 0.65]

    assert with_interval(values, 3) == with_interval(values, 3) != with_interval(values, 4)


def test_without_differences_there_is_no_doubt() -> None:
    assert (with_interval([0.25], 0).low, with_interval([0.25] * 9, 0).high) == (0.25, 0.25)


def test_accuracy_is_of_answers_that_name_the_label_however_they_write_it() -> None:
    found = scored(["The Refund.", "refunds", " late  train "], [["refund"], ["refund"], ["Late train!"]], ["accuracy"])
    assert found["accuracy"].mean == pytest.approx(2 / 3)


def test_f1_is_that_of_the_nearest_right_answers_words() -> None:
    found = scored(["platform two at nine"], [["nine", "platform two"]], ["f1"])
    assert found["f1"].mean == pytest.approx(
        2 * (2 / 4) * 1 / (2 / 4 + 1)
    )  # 2 of 4 words are right, and all of 2 there


def test_regex_is_the_share_of_answers_with_the_pattern() -> None:
    answers = ["It is 42.", "Forty-two", "7"]
    found = scored(answers, [["x"]] * 3, ["regex"], found=found_in(r"\d+", answers))
    assert (found["regex"].mean, found["regex"].records) == (pytest.approx(2 / 3), 3)
