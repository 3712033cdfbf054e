"""What is built at first use, and the hub."""

from __future__ import annotations

from pathlib import Path

import pytest

from fettle.doctor.built import check_hub, check_ninja, check_op


def test_an_op_that_an_interrupted_build_left_locked_says_what_to_remove(tmp_path: Path):
    op = tmp_path / "op"
    assert check_op(op).level == "note"

    op.mkdir()
    (op / "op.so").touch()
    assert check_op(op).level == "ok"

    (op / "lock").touch()
    found = check_op(op)
    assert found.level == "bad" and found.fix.startswith(f"rm {op / 'lock'}")


def test_a_missing_ninja_is_to_be_mended():
    assert [check_ninja(there).level for there in (None, "/usr/bin/ninja")] == ["bad", "ok"]


def test_being_offline_is_a_note(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    assert (check_hub().level, "is not reached" in check_hub().told) == ("note", True)

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert check_hub().told.startswith("HF_HUB_OFFLINE is set")
