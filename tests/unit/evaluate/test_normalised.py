"""What an answer may differ in, and the F1 of what is left: SQuAD's own rules, and where labels need others."""

from __future__ import annotations

import pytest

from fettle.evaluate.normalised import normalised, token_f1


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("  The Night-Train,\n leaves! ", "nighttrain leaves"),
        ("an apple a day", "apple day"),
        ("theatre", "theatre"),
        ("“so”", "“so”"),  # only ASCII's punctuation, as in evaluate-v1.1.py
        ("", ""),
    ],
)
def test_case_punctuation_articles_and_white_space_do_not_count(text: str, left: str) -> None:
    assert normalised(text) == left


def test_labels_of_nothing_else_stay_apart() -> None:
    labels = ["A", "the", "+", "-", "?", "a."]
    assert [normalised(label) for label in labels] == ["a", "the", "+", "-", "?", "a"]


def test_f1_counts_each_word_as_often_as_both_have_it() -> None:
    assert token_f1("two two nine", "two two two") == pytest.approx(2 * (2 / 3) * (2 / 3) / (2 / 3 + 2 / 3))


@pytest.mark.parametrize(("answer", "wanted", "value"), [("", "", 1), ("", "nine", 0), ("ten", "nine", 0)])
def test_f1_of_texts_with_nothing_in_common(answer: str, wanted: str, value: float) -> None:
    assert token_f1(answer, wanted) == value
