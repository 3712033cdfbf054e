"""`fettle rl show`: a run's last iterations, one in full, and what is said where there are none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fettle.cli.rl import app
from fettle.errors import UserError
from fettle.rl.recorder import IterationRow, Recorder, Sample

MakeRun = Callable[..., Path]


def row(iteration: int) -> IterationRow:
    return IterationRow(
        iteration=iteration,
        version=iteration,
        oldest_version=iteration,
        seconds=2.5,
        phases={"generate": 1.5, "learn": 1.0},
        tokens=1234,
        tokens_per_second=500.0,
        lengths={"mean": 20.0, "min": 1.0, "max": 64.0, "truncated": 0.0},
        reward=0.625,
        parts={"exact_number": 0.625},
        judges={},
        alike=0.25,
        repetition=0.0,
        kl={"token": 0.1, "answer": 2.0, "coef": 0.05},
        entropy=1.0,
        clip_fraction=0.01,
        ratio={"mean": 1.0, "std": 0.1, "max": 1.5},
        gap={"mean": 0.001, "max": 0.01},
        probe=0.0,
        grad_norm=1.0,
        loss=0.0,
        value_loss=None,
        alarms=["answers have grown"] if iteration == 1 else [],
        samples=[Sample("[bold]What is 2 + 2?", "4 :smile: \x1b[2J", 1.0, {"exact_number": 1.0}, "stop", iteration, 3)],
    )


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """`make_run(iterations, *stages)`: the folder of a run with these stages of kind rl, and another stage."""

    def make(iterations: int, *stages: str) -> Path:
        (tmp_path / "stages" / "sft").mkdir(parents=True)
        for stage in stages:
            recorder = Recorder(tmp_path / "stages" / stage / "iterations.jsonl")
            for iteration in range(iterations):
                recorder.write(row(iteration))
        return tmp_path

    return make


def show(*arguments: object) -> str:
    told = CliRunner().invoke(app, ["show", *(str(one) for one in arguments)], catch_exceptions=False)
    assert told.exit_code == 0
    return told.output


def refused(*arguments: object) -> str:
    with pytest.raises(UserError) as error:
        show(*arguments)
    return str(error.value)


def test_a_run_is_its_last_20_iterations_and_all_its_alarms(make_run):
    lines = show(make_run(25, "align")).splitlines()
    assert lines[0].split() == ["iteration", "reward", "kl", "length", "entropy", "clip", "gap", "grad", "norm", "s"]
    assert [line.split()[0] for line in lines[1:21]] == [str(i) for i in range(5, 25)]
    assert lines[1].split() == ["5", "0.625", "2.00", "20", "1.00", "1.0%", "0.0010", "1.00", "2.5"]
    assert lines[21:] == ["the last 20 of 25 iterations", "iteration 1: answers have grown"]


def test_a_stages_folder_is_as_good_as_its_run(make_run):
    run = make_run(2, "align")
    assert show(run / "stages" / "align") == show(run)


def test_stages_are_told_apart_by_their_names(make_run):
    told = show(make_run(1, "align", "polish")).splitlines()
    assert (told[0], told[3]) == ("stage align", "stage polish")


def test_an_iteration_in_full_has_its_figures_and_its_answers_word_for_word(make_run):
    told = show(make_run(3, "align"), "--iteration", 1)
    assert "tokens            1,234\n" in told and "ratio             mean 1, std 0.1, max 1.5\n" in told
    assert "answers have grown\n" in told and "judges" not in told and "value loss" not in told
    assert "── reward 1 (exact_number 1), 3 tokens, ended by stop, of weights 1\n[bold]What is 2 + 2?\n" in told
    assert told.endswith("4 :smile: �[2J\n")  # no answer clears the terminal


def test_an_iteration_that_is_not_there_is_told_with_those_that_are(make_run):
    assert "no iteration 3\n  expected: 0 to 2" in refused(make_run(3, "align"), "--iteration", 3)


def test_an_iteration_of_several_stages_wants_one_of_their_folders(make_run):
    run = make_run(1, "align", "polish")
    assert f"expected: {run / 'stages' / 'align'}, {run / 'stages' / 'polish'}" in refused(run, "--iteration", 0)


def test_a_folder_without_stages_of_kind_rl_is_told(make_run, tmp_path):
    assert refused(make_run(0)).startswith(f"{tmp_path}: no stage of kind rl has recorded anything here")


def test_a_folder_that_is_not_there_is_told(tmp_path):
    assert refused(tmp_path / "no").startswith(f"{tmp_path / 'no'}: no such folder")
