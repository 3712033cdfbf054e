"""What a judge is asked, and what its verdicts mean (Zheng et al. 2023, arXiv:2306.05685)."""

from __future__ import annotations

import pytest
from judge_server import answers_in

from fettle.evaluate.judging import WORTH, outcome, question, verdict


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("Both are polite, but A is right.\n[[A]]", "A"),
        ("[[B]]", "B"),
        ("They say the same. [[C]], so: [[C]]", "C"),
        ("<think>At first I held [[A]] the better one.</think>\n[[B]]", "B"),
        ("A is better", None),
        ("[[A]] or [[B]], who knows", None),
        ("[[a]]", None),
        ("[[D]]", None),
        ("", None),
    ],
)
def test_a_verdict_is_the_only_one_in_double_brackets(said, found):
    assert verdict(said) == found


@pytest.mark.parametrize(
    ("as_first", "as_second", "found"),
    [
        ("A", "B", "won"),
        ("B", "A", "lost"),
        ("C", "C", "tied"),
        ("A", "A", "inconsistent"),  # whoever comes first
        ("B", "B", "inconsistent"),
        ("A", "C", "inconsistent"),
        ("C", "A", "inconsistent"),
        (None, "B", "unparsed"),
        ("A", None, "unparsed"),
    ],
)
def test_an_answer_wins_only_where_it_wins_in_both_orders(as_first, as_second, found):
    assert outcome(as_first, as_second) == found


def test_a_change_of_mind_is_half_a_win_and_no_verdict_is_left_out():
    assert WORTH == {"won": 1, "tied": 0.5, "lost": 0, "inconsistent": 0.5, "unparsed": None}


def test_a_judge_sees_the_request_both_answers_and_what_counts():
    asked = question("Which {train}?", "The {Heron}.", "None.", "politeness")

    assert answers_in(asked) == ("The {Heron}.", "None.")
    assert "by this: politeness." in asked and "[Start of request]\nWhich {train}?\n[End of request]" in asked
