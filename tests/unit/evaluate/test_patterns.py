"""A pattern looked for in answers."""

from __future__ import annotations

import pytest

from fettle.evaluate import patterns


def test_a_pattern_is_found_anywhere() -> None:
    assert patterns.found_in(r"(?i)platform \d", ["On Platform 2.", "On track 2."]) == [True, False]


def test_a_pattern_that_goes_back_and_forth_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "SECONDS", 0.01)
    assert patterns.found_in("(a|aa)+$", ["a" * 500 + "b", "aa"]) == [None, True]  # the first would take years
