"""Rounds of a stage: where they end, what is written between trainer and search, another's checkpoint taken over."""

from __future__ import annotations

from pathlib import Path

import pytest

from fettle.errors import FettleError
from fettle.train.checkpoint import Checkpoints, Fence
from fettle.train.rounds import Round, last_steps, read_rounds, take_over, write_rounds


def checkpoints(folder: Path, fingerprint: str) -> Checkpoints:
    (folder / "epoch").parent.mkdir(parents=True, exist_ok=True)
    (folder / "epoch").write_text("now")
    return Checkpoints(folder / "checkpoints", fingerprint, 2, Fence(folder / "epoch", "now"))


def written(of: Checkpoints, step: int, content: str) -> Path:
    partial = of.partial(step, "test")
    partial.mkdir(parents=True)
    (partial / "learned").write_text(content)
    of.commit(partial, step)
    return of.path(step)


@pytest.mark.parametrize(
    ("steps", "rounds", "ends"), [(45, 9, [5, 10, 15, 20, 25, 30, 35, 40, 45]), (10, 3, [4, 7, 10]), (2, 4, [1, 2])]
)
def test_rounds_are_equal_parts_and_the_last_one_ends_with_the_stage(steps, rounds, ends):
    assert last_steps(steps, rounds) == ends


def test_rounds_are_read_in_order_and_of_one_that_was_measured_twice_the_last(tmp_path):
    write_rounds(tmp_path, [Round(2, 10, {"loss": 2.0}), Round(1, 5, {"loss": 3.0}), Round(2, 10, {"loss": 1.0})])
    with open(tmp_path / "rounds.jsonl", "a") as stream:
        stream.write('{"number": 3, "st')  # still being written
    assert read_rounds(tmp_path) == [Round(1, 5, {"loss": 3.0}), Round(2, 10, {"loss": 1.0})]


def test_anothers_checkpoint_is_taken_over_and_own_later_ones_go(tmp_path):
    theirs, own = checkpoints(tmp_path / "a", "theirs"), checkpoints(tmp_path / "b", "own")
    source = written(theirs, 10, "good")
    written(own, 10, "bad")
    written(own, 12, "worse")
    take_over(source, 10, own)
    found = own.latest()
    assert found is not None
    step, folder = found
    assert (step, (folder / "learned").read_text()) == (10, "good")
    assert theirs.latest() == (10, source)


def test_a_checkpoint_of_another_stage_is_no_checkpoint_unless_it_is_taken_over(tmp_path):
    theirs, own = checkpoints(tmp_path / "a", "theirs"), checkpoints(tmp_path / "b", "own")
    written(theirs, 10, "good").rename(own.path(10).parent.mkdir(parents=True, exist_ok=True) or own.path(10))
    assert own.latest() is None


def test_a_run_that_was_taken_over_takes_over_nothing(tmp_path):
    theirs, own = checkpoints(tmp_path / "a", "theirs"), checkpoints(tmp_path / "b", "own")
    source = written(theirs, 10, "good")
    own.fence.file.write_text("later")
    with pytest.raises(FettleError, match="another run has taken over"):
        take_over(source, 10, own)
