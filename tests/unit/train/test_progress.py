"""Progress written by one process and read by another, whatever happens to the first."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fettle.train.progress import ProgressWriter, StepRow, curve, read_progress


def write(writer: ProgressWriter, *steps: int, loss: float = 1.0) -> None:
    for step in steps:
        writer.write(step=step, steps=9, loss=loss, lr=1e-3, grad_norm=1.0, tokens=8, loss_tokens=4)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "stages" / "task" / "progress.jsonl"


def test_what_is_written_is_read(file):
    write(ProgressWriter(file), 1, 2)
    rows, end = read_progress(file)
    assert [(row.step, row.loss, row.tokens, row.loss_tokens) for row in rows] == [(1, 1.0, 8, 4), (2, 1.0, 8, 4)]
    assert end == file.stat().st_size


def test_reading_goes_on_where_it_ended(file):
    writer = ProgressWriter(file)
    write(writer, 1, 2)
    _, end = read_progress(file)
    write(writer, 3)
    assert [row.step for row in read_progress(file, end)[0]] == [3]


def test_a_line_still_being_written_is_left_for_the_next_time(file):
    write(ProgressWriter(file), 1)
    whole = file.read_bytes()
    file.write_bytes(whole + whole[:30])
    rows, end = read_progress(file)
    assert ([row.step for row in rows], end) == ([1], len(whole))
    file.write_bytes(whole + whole)
    assert len(read_progress(file, end)[0]) == 1


def test_a_file_that_is_not_there_yet_has_no_rows(file):
    assert (read_progress(file), read_progress(file, 7), curve(file)) == (([], 0), ([], 7), [])


def test_where_an_interrupted_run_repeated_steps_the_last_writing_counts(file):
    write(ProgressWriter(file), 1, 2, 3, 4, loss=1.0)
    write(ProgressWriter(file), 3, 4, 5, loss=2.0)  # from the checkpoint of step 2 on
    assert [(row.step, row.loss) for row in curve(file)] == [(1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0), (5, 2.0)]


def test_an_attempt_that_died_in_the_middle_of_a_line_does_not_spoil_the_next_ones(file):
    write(ProgressWriter(file), 1, 2)
    file.write_bytes(file.read_bytes()[:-10])
    write(ProgressWriter(file), 2, 3)
    assert [row.step for row in curve(file)] == [1, 2, 3]


def test_an_attempt_that_died_in_its_first_line_leaves_none(file):
    ProgressWriter(file)
    file.write_text('{"step": 1, "lo')
    write(ProgressWriter(file), 1)
    assert [row.step for row in curve(file)] == [1]


def test_each_attempts_seconds_count_from_its_own_beginning(file):
    first = ProgressWriter(file)
    first.began -= 100
    write(first, 1)
    write(ProgressWriter(file), 2)
    before, after = curve(file)
    assert before.seconds >= 100 > 50 > after.seconds >= 0 and before.time <= after.time


def test_a_row_is_a_line_of_json_with_every_field(file):
    write(ProgressWriter(file), 1)
    (line,) = file.read_text().splitlines()
    assert set(json.loads(line)) == set(StepRow.__dataclass_fields__)
