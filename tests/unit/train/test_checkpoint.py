"""Checkpoints: complete or not there, this stage's only, and only by the run that holds the folder."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from fettle.errors import FettleError
from fettle.train.checkpoint import Checkpoints, Fence, wait_for


@pytest.fixture
def checkpoints(tmp_path: Path, fence: Fence) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints", "fingerprint", keep=2, fence=fence)


def save(checkpoints: Checkpoints, step: int, content: str = "shard") -> Path:
    """A checkpoint of two files, committed; its folder."""
    written = checkpoints.partial(step, "attempt")
    (written / "deep").mkdir(parents=True)
    (written / "state.json").write_text(json.dumps({"step": step}))
    (written / "deep" / "rank_0.pt").write_text(content)
    checkpoints.commit(written, step)
    return checkpoints.folder / f"step-{step:08d}"


def tear_off(folder: Path) -> None:
    (folder / "deep" / "rank_0.pt").unlink()


def truncate(folder: Path) -> None:
    (folder / "deep" / "rank_0.pt").write_text("sha")


def rot(folder: Path) -> None:
    (folder / "deep" / "rank_0.pt").write_text("shart")


def unmark(folder: Path) -> None:
    (folder / "complete.json").unlink()


def tear_the_mark(folder: Path) -> None:
    mark = folder / "complete.json"
    mark.write_text(mark.read_text()[:-5])


def test_a_committed_checkpoint_is_the_latest(checkpoints):
    assert checkpoints.latest() is None
    folder = save(checkpoints, 5)
    assert checkpoints.latest() == (5, folder) and (folder / "deep" / "rank_0.pt").read_text() == "shard"


def test_the_newest_is_by_number_not_by_name_or_time(checkpoints):
    for step in (100, 20, 9):
        save(replace(checkpoints, keep=9), step)
    assert checkpoints.complete() == [9, 20, 100] and checkpoints.latest()[0] == 100


@pytest.mark.parametrize("harm", [tear_off, truncate, rot, unmark, tear_the_mark])
def test_a_torn_one_is_never_taken(checkpoints, harm: Callable[[Path], None]):
    save(checkpoints, 5)
    harm(save(checkpoints, 10))
    assert checkpoints.latest()[0] == 5


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (tear_off, "deep/rank_0.pt is missing"),
        (truncate, "deep/rank_0.pt has 3 bytes, and was written with 5"),
        (rot, "deep/rank_0.pt has other bytes than were written (its sha256 differs)"),
        (unmark, "it has no readable complete.json, which is written last"),
        (tear_the_mark, "it has no readable complete.json, which is written last"),
    ],
)
def test_why_one_is_not_taken_is_said(checkpoints, harm: Callable[[Path], None], reason: str):
    save(checkpoints, 5)
    harm(save(checkpoints, 10))
    said: list[str] = []
    assert checkpoints.latest(said.append)[0] == 5
    assert said == [f"the checkpoint of step 10 is not taken: {reason}"]


def test_a_foreign_one_is_named(checkpoints):
    save(checkpoints, 5)
    said: list[str] = []
    assert replace(checkpoints, fingerprint="another").latest(said.append) is None
    assert said == [
        "the checkpoint of step 5 is not taken: another stage has written it (fingerprint fingerprint, not another)"
    ]


def test_what_killed_writers_left_is_swept(checkpoints):
    save(checkpoints, 5)
    checkpoints.partial(10, "attempt").mkdir(parents=True)
    (checkpoints.folder / ".dropped-token-step-00000001" / "deep").mkdir(parents=True)
    checkpoints.sweep()
    assert [folder.name for folder in checkpoints.folder.iterdir()] == ["step-00000005"]


def test_what_is_still_being_written_is_never_taken(checkpoints):
    save(checkpoints, 5)
    checkpoints.partial(10, "attempt").mkdir(parents=True)
    assert checkpoints.complete() == [5]


def test_one_of_another_fingerprint_is_never_taken(checkpoints):
    save(checkpoints, 5)
    assert replace(checkpoints, fingerprint="another").latest() is None


def test_the_newest_so_many_are_kept(checkpoints):
    for step in (5, 10, 15, 20):
        save(checkpoints, step)
    assert checkpoints.complete() == [15, 20]
    assert sorted(folder.name for folder in checkpoints.folder.glob("step-*")) == ["step-00000015", "step-00000020"]


def test_a_torn_one_does_not_count_among_those_that_are_kept(checkpoints):
    save(checkpoints, 5)
    tear_off(save(checkpoints, 10))
    save(checkpoints, 15)
    assert checkpoints.complete() == [5, 15]


def test_the_same_step_again_takes_the_place_of_a_torn_one(checkpoints):
    tear_off(save(checkpoints, 5))
    folder = save(checkpoints, 5, content="again")
    assert checkpoints.latest() == (5, folder) and (folder / "deep" / "rank_0.pt").read_text() == "again"


def test_a_run_that_was_taken_over_may_not_commit(checkpoints, fence):
    save(checkpoints, 5)
    fence.file.write_text("second")
    with pytest.raises(FettleError, match=r"another run has taken over .*; this one stops writing"):
        save(checkpoints, 10)
    assert checkpoints.complete() == [5]


def test_the_run_that_took_over_goes_on_from_the_earlier_ones_checkpoint(checkpoints, fence):
    save(checkpoints, 5)
    fence.file.write_text("second")
    later = replace(checkpoints, fence=Fence(fence.file, "second"))
    assert later.latest()[0] == 5 and later.partial(10, "attempt") != checkpoints.partial(10, "attempt")
    save(later, 10)
    assert later.complete() == [5, 10]


def test_clearing_leaves_nothing_and_may_be_done_twice(checkpoints):
    save(checkpoints, 5)
    checkpoints.clear()
    checkpoints.clear()
    assert not checkpoints.folder.exists() and checkpoints.latest() is None


def test_it_is_all_on_disk_before_it_gets_its_name(checkpoints, monkeypatch):
    order: list[str] = []
    sync, rename = os.fsync, os.rename
    monkeypatch.setattr(os, "fsync", lambda handle: (order.append("sync"), sync(handle))[1])
    monkeypatch.setattr(os, "rename", lambda *paths: (order.append("rename"), rename(*paths))[1])
    save(checkpoints, 5)
    # Two files, the mark, the folder below and the folder itself; then the name, and the folder that has it.
    assert order == ["sync"] * 5 + ["rename", "sync"]


def test_waiting_ends_when_the_artifact_is_there(tmp_path, fence):
    (tmp_path / "artifact.json").write_text("{}")
    wait_for(tmp_path, fence)


def test_waiting_ends_when_another_run_has_taken_over(tmp_path, fence):
    fence.file.write_text("second")
    with pytest.raises(FettleError, match="taken over"):
        wait_for(tmp_path / "never", fence)
