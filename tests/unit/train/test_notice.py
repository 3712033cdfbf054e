"""A notice has a checkpoint written at the end of the step, where one can be; once."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from fettle.train.checkpoint import Checkpoints, Fence
from fettle.train.note import leave_note
from fettle.train.notice import SaveOnNotice
from fettle.train.writer import CheckpointWriter


@pytest.fixture
def writer(tmp_path: Path, fence: Fence) -> CheckpointWriter:
    return CheckpointWriter(Checkpoints(tmp_path / "checkpoints", "fingerprint", 2, fence), "attempt", 0, 1)


def saves_after(notice: SaveOnNotice, step: int) -> bool:
    control = SimpleNamespace(should_save=False)
    notice.on_step_end(None, SimpleNamespace(global_step=step), control)
    if control.should_save:
        notice.on_save(None, None, control)
    return control.should_save


def test_the_drivers_note_is_obeyed_once(writer, fence):
    notice = SaveOnNotice(writer, every=1, is_leaving=None)
    assert not saves_after(notice, 1)
    leave_note(fence)
    assert [saves_after(notice, step) for step in (2, 3)] == [True, False]
    leave_note(fence)
    assert saves_after(notice, 4)


def test_where_steps_make_an_iteration_its_end_is_waited_for(writer, fence):
    notice = SaveOnNotice(writer, every=4, is_leaving=None)
    leave_note(fence)
    assert [saves_after(notice, step) for step in range(1, 6)] == [False, False, False, True, False]


def test_a_note_to_an_earlier_run_is_nobodys(writer, fence):
    notice = SaveOnNotice(writer, every=1, is_leaving=None)
    leave_note(Fence(fence.file, "earlier"))
    assert not saves_after(notice, 1)


def test_ray_is_asked_now_and_then_and_obeyed_once(writer, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("fettle.train.notice.time.monotonic", lambda: now[0])
    asked: list[float] = []
    notice = SaveOnNotice(writer, every=1, is_leaving=lambda: (asked.append(now[0]), len(asked) > 1)[1])
    saved = []
    for step, now[0] in enumerate([1.0, 4.0, 6.0, 7.0, 12.0, 18.0], start=1):
        saved += [step] if saves_after(notice, step) else []
    assert (asked, saved) == ([6.0, 12.0], [5])
