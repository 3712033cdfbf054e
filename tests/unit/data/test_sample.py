"""Some rows of a file: how many, which, and with their true lines."""

from __future__ import annotations

from collections import Counter

import pytest

from fettle.data import sample
from fettle.data.rows import read_rows
from fettle.data.sample import sample_rows
from fettle.errors import UserError
from fettle.recipe.data import DataSpec


@pytest.fixture
def numbered(write):
    """2000 lines that hold their own numbers; the last without its end."""
    content = "\n".join(f'{{"text": "{i}", "pad": "{"x" * (i % 50)}"}}' for i in range(1, 2001))
    return write("a.jsonl", content)


def lines(found) -> list[int]:
    found = list(found)
    assert [row.line for row in found] == [int(row.columns["text"]) for row in found]
    return [row.line for row in found]


@pytest.mark.parametrize("small", [0, 1 << 30])
def test_a_sample_has_as_many_rows_as_asked_for_in_order_the_same_for_a_seed(numbered, monkeypatch, small):
    monkeypatch.setattr(sample, "_SMALL", small)
    spec = DataSpec(path=str(numbered))
    found = lines(sample_rows(numbered, spec, 100, seed=1))
    assert len(found) == len(set(found)) == 100 and found == sorted(found)
    assert lines(sample_rows(numbered, spec, 100, seed=1)) == found != lines(sample_rows(numbered, spec, 100, seed=2))


@pytest.mark.parametrize("small", [0, 1 << 30])
def test_a_sample_is_drawn_from_the_whole_file(numbered, monkeypatch, small):
    monkeypatch.setattr(sample, "_SMALL", small)
    spec = DataSpec(path=str(numbered))
    parts = Counter((line - 1) // 500 for seed in range(20) for line in lines(sample_rows(numbered, spec, 50, seed)))
    assert all(200 < parts[part] < 300 for part in range(4))  # 250 in each quarter of the lines, give or take


@pytest.mark.parametrize("small", [0, 1 << 30])
def test_a_sample_of_more_rows_than_there_are_is_all_of_them(write, monkeypatch, small):
    monkeypatch.setattr(sample, "_SMALL", small)
    file = write("a.jsonl", [{"text": f"{i}"} for i in range(1, 8)])
    assert lines(sample_rows(file, DataSpec(path=str(file)), 1000, seed=0)) == list(range(1, 8))


def test_a_file_of_another_kind_is_sampled_too(write):
    file = write("a.csv", "text\n" + "".join(f"{i}\n" for i in range(2, 102)))
    assert len(lines(sample_rows(file, DataSpec(path=str(file)), 10, seed=0))) == 10


def test_bad_lines_that_are_met_are_told_with_their_true_lines(write, monkeypatch):
    monkeypatch.setattr(sample, "_SMALL", 0)
    file = write("a.jsonl", "".join('{"text": "x"}\n' if i % 10 else "{bad\n" for i in range(1, 501)))
    mistakes: list[UserError] = []
    assert list(sample_rows(file, DataSpec(path=str(file)), 200, 0, mistakes.append))
    assert mistakes and all(mistake.line % 10 == 0 and mistake.file == file for mistake in mistakes)


def test_a_file_without_a_row_is_an_error_also_for_a_sample(write):
    file = write("a.jsonl", "\n")
    with pytest.raises(UserError, match="the file is empty"):
        list(sample_rows(file, DataSpec(path=str(file)), 5, 0))
    assert list(read_rows(write("b.jsonl", [{"text": "x"}])))
