"""What is kept of each iteration, read by another process, whatever happened to the writer."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fettle.errors import UserError
from fettle.rl.charts import charts
from fettle.rl.recorder import IterationRow, Recorder, Sample, read_rows, summary

Write = Callable[..., None]


@pytest.fixture
def row(make_row: Any) -> IterationRow:
    """One with phases, parts and a sample."""
    phases = {"generate": 2.0, "score": 0.5, "reference": 0.5, "learn": 1.0, "sync": 0.25, "wait": 0.0}
    samples = [Sample("2 + 2?", "4\n", 1.0, {"exact_number": 1.0}, "stop", 0, 4)]
    found: IterationRow = make_row(phases=phases, parts={"exact_number": 0.5}, samples=samples)
    return found


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "stages" / "align" / "iterations.jsonl"


@pytest.fixture
def write(file: Path, row: IterationRow) -> Write:
    """`write(iteration, …, reward=)`: an attempt that writes these."""

    def write(*iterations: int, reward: float = 0.5) -> None:
        recorder = Recorder(file)
        for iteration in iterations:
            recorder.write(replace(row, iteration=iteration, reward=reward))

    return write


def rewards(file: Path) -> list[tuple[int, float]]:
    return [(row.iteration, row.reward) for row in read_rows(file)]


def test_a_row_is_read_as_it_was_written(file, row):
    Recorder(file).write(row)
    assert read_rows(file) == [row]


def test_a_file_that_is_not_there_yet_has_no_rows(file):
    assert read_rows(file) == []


def test_numbers_that_are_not_finite_are_null_in_the_file_and_nan_when_read(file, row):
    kl = {"token": math.nan, "answer": math.inf, "coef": 0.0}
    Recorder(file).write(replace(row, kl=kl, loss=-math.inf, value_loss=math.nan))
    told = json.loads(file.read_text(), parse_constant=pytest.fail)  # strict: no NaN, no Infinity
    assert (told["kl"], told["loss"], told["value_loss"]) == ({"token": None, "answer": None, "coef": 0.0}, None, None)
    (found,) = read_rows(file)
    assert all(math.isnan(one) for one in (found.kl["token"], found.kl["answer"], found.loss, found.value_loss))


def test_a_loss_of_no_critic_is_no_nan(file, row):
    Recorder(file).write(row)
    assert read_rows(file)[0].value_loss is None


def test_where_an_interrupted_run_repeated_iterations_the_last_writing_counts(file, write):
    write(0, 1, 2, reward=0.1)
    write(2, 3, reward=0.2)  # from the checkpoint after iteration 1 on
    assert rewards(file) == [(0, 0.1), (1, 0.1), (2, 0.2), (3, 0.2)]


def test_iterations_that_a_resumed_run_has_not_come_to_are_not_those_of_the_dead_attempt(file, write):
    write(0, 1, 2, 3, reward=0.1)
    write(1, reward=0.2)
    assert rewards(file) == [(0, 0.1), (1, 0.2)]


def test_an_attempt_that_died_in_the_middle_of_a_line_does_not_spoil_the_next_ones(file, write):
    write(0, 1)
    file.write_bytes(file.read_bytes()[:-10])
    assert rewards(file) == [(0, 0.5)]
    write(1)
    assert rewards(file) == [(0, 0.5), (1, 0.5)]


def test_a_line_that_is_no_row_is_told_with_its_number(file, write):
    write(0)
    file.write_bytes(file.read_bytes() + b'{"iteration": 1}\n')
    with pytest.raises(UserError, match=r"iterations\.jsonl:2: not an iteration's row"):
        read_rows(file)


def test_the_summary_takes_means_over_the_first_and_last_tenth_and_sums_of_seconds(row):
    rows = [
        replace(row, iteration=i, reward=float(i), kl=row.kl | {"answer": float(i)}, gap={"mean": 0.1, "max": i / 100})
        for i in range(20)
    ]
    assert summary(rows) == {
        "iterations": 20,
        "reward": {"first": 0.5, "last": 18.5},  # (0 + 1) / 2, (18 + 19) / 2
        "kl": 18.5,
        "gap": {"mean": pytest.approx(0.1), "max": 0.19},
        "phases": {"generate": 40.0, "score": 10.0, "reference": 10.0, "learn": 20.0, "sync": 5.0},
    }


def test_without_a_reference_the_summary_has_no_divergence(row):
    assert summary([replace(row, kl={"token": math.nan, "answer": math.nan, "coef": 0.0})])["kl"] is None


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("count", [1, 2, 30, 2000])
def test_charts_are_svg_elements_even_where_nothing_was_measured(count, row):
    rows = [replace(row, iteration=i) for i in range(count)]
    bare = [replace(r, kl=r.kl | {"answer": math.nan}, gap={"mean": 0.0, "max": 0.0}, phases={}) for r in rows]
    for drawn in (charts("align", rows, [(0, 0.4), (count, 0.6)]), charts("align", bare)):
        assert [one.title.split(",")[0] for one in drawn] == [
            *("Reward", "Divergence", "Length", "Entropy", "Gap of sampler and learner", "Seconds an iteration"),
        ]
        assert all(one.svg.startswith("<svg") and one.svg.endswith("</svg>") for one in drawn)


def test_a_run_without_iterations_has_no_chart():
    assert charts("align", []) == []
