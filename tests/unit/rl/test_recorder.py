"""What is kept of each iteration, read by another process, whatever happened to the writer."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from fettle.errors import UserError
from fettle.rl.charts import figure
from fettle.rl.recorder import IterationRow, Recorder, Sample, read_rows, summary

ROW = IterationRow(
    iteration=0,
    version=0,
    oldest_version=0,
    seconds=4.0,
    phases={"generate": 2.0, "score": 0.5, "reference": 0.5, "learn": 1.0, "sync": 0.25, "wait": 0.0},
    tokens=8,
    tokens_per_second=2.0,
    lengths={"mean": 4.0, "min": 3.0, "max": 5.0, "truncated": 0.0},
    reward=0.5,
    parts={"exact_number": 0.5},
    judges={},
    alike=0.0,
    repetition=0.0,
    kl={"token": 0.1, "answer": 0.4, "coef": 0.05},
    entropy=1.5,
    clip_fraction=0.0,
    ratio={"mean": 1.0, "std": 0.0, "max": 1.0},
    gap={"mean": 0.001, "max": 0.01},
    probe=0.01,
    grad_norm=1.0,
    loss=-0.1,
    value_loss=None,
    alarms=[],
    samples=[Sample("2 + 2?", "4\n", 1.0, {"exact_number": 1.0}, "stop", 0, 4)],
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "stages" / "align" / "iterations.jsonl"


def write(file: Path, *iterations: int, reward: float = 0.5) -> None:
    """An attempt that writes these."""
    recorder = Recorder(file)
    for iteration in iterations:
        recorder.write(replace(ROW, iteration=iteration, reward=reward))


def rewards(file: Path) -> list[tuple[int, float]]:
    return [(row.iteration, row.reward) for row in read_rows(file)]


def test_a_row_is_read_as_it_was_written(file):
    Recorder(file).write(ROW)
    assert read_rows(file) == [ROW]


def test_a_file_that_is_not_there_yet_has_no_rows(file):
    assert read_rows(file) == []


def test_numbers_that_are_not_finite_are_null_in_the_file_and_nan_when_read(file):
    kl = {"token": math.nan, "answer": math.inf, "coef": 0.0}
    Recorder(file).write(replace(ROW, kl=kl, loss=-math.inf, value_loss=math.nan))
    told = json.loads(file.read_text(), parse_constant=pytest.fail)  # strict: no NaN, no Infinity
    assert (told["kl"], told["loss"], told["value_loss"]) == ({"token": None, "answer": None, "coef": 0.0}, None, None)
    (row,) = read_rows(file)
    assert all(math.isnan(one) for one in (row.kl["token"], row.kl["answer"], row.loss, row.value_loss))


def test_a_loss_of_no_critic_is_no_nan(file):
    Recorder(file).write(ROW)
    assert read_rows(file)[0].value_loss is None


def test_where_an_interrupted_run_repeated_iterations_the_last_writing_counts(file):
    write(file, 0, 1, 2, reward=0.1)
    write(file, 2, 3, reward=0.2)  # from the checkpoint after iteration 1 on
    assert rewards(file) == [(0, 0.1), (1, 0.1), (2, 0.2), (3, 0.2)]


def test_iterations_that_a_resumed_run_has_not_come_to_are_not_those_of_the_dead_attempt(file):
    write(file, 0, 1, 2, 3, reward=0.1)
    write(file, 1, reward=0.2)
    assert rewards(file) == [(0, 0.1), (1, 0.2)]


def test_an_attempt_that_died_in_the_middle_of_a_line_does_not_spoil_the_next_ones(file):
    write(file, 0, 1)
    file.write_bytes(file.read_bytes()[:-10])
    assert rewards(file) == [(0, 0.5)]
    write(file, 1)
    assert rewards(file) == [(0, 0.5), (1, 0.5)]


def test_a_line_that_is_no_row_is_told_with_its_number(file):
    write(file, 0)
    file.write_bytes(file.read_bytes() + b'{"iteration": 1}\n')
    with pytest.raises(UserError, match=r"iterations\.jsonl:2: not an iteration's row"):
        read_rows(file)


def test_the_summary_takes_means_over_the_first_and_last_tenth_and_sums_of_seconds():
    rows = [
        replace(ROW, iteration=i, reward=float(i), kl=ROW.kl | {"answer": float(i)}, gap={"mean": 0.1, "max": i / 100})
        for i in range(20)
    ]
    assert summary(rows) == {
        "iterations": 20,
        "reward": {"first": 0.5, "last": 18.5},  # (0 + 1) / 2, (18 + 19) / 2
        "kl": 18.5,
        "gap": {"mean": pytest.approx(0.1), "max": 0.19},
        "phases": {"generate": 40.0, "score": 10.0, "reference": 10.0, "learn": 20.0, "sync": 5.0},
    }


def test_without_a_reference_the_summary_has_no_divergence():
    assert summary([replace(ROW, kl={"token": math.nan, "answer": math.nan, "coef": 0.0})])["kl"] is None


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("count", [1, 2, 30])
def test_the_chart_is_one_svg_element_even_where_nothing_was_measured(count):
    rows = [replace(ROW, iteration=i) for i in range(count)]
    bare = [replace(r, kl=r.kl | {"answer": math.nan}, gap={"mean": 0.0, "max": 0.0}, phases={}) for r in rows]
    for drawn in (figure(rows, [(0, 0.4), (count, 0.6)]), figure(bare)):
        assert drawn.startswith("<svg") and drawn.rstrip().endswith("</svg>")


def test_a_run_without_iterations_has_no_chart():
    assert figure([]) == ""
