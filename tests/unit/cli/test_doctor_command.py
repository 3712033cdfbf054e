"""`fettle doctor` as a user sees it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from fettle.cli.doctor import doctor_command
from fettle.doctor import looked_at
from fettle.doctor.finding import bad, note, ok

app = typer.Typer()
app.command()(doctor_command)


def call(monkeypatch: pytest.MonkeyPatch, *words: str, found: list) -> tuple[int, str]:
    monkeypatch.setattr(looked_at, "check_all", lambda out: found)
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    return done.exit_code, done.output


def test_findings_are_lines_with_their_fix_below(monkeypatch):
    code, out = call(monkeypatch, found=[ok("cpus", "2"), note("hub", "offline", "a proxy")])

    assert out == "ok    cpus  2\nnote  hub   offline\n            fix: a proxy\nusable; 2 looked at, 1 to know of\n"
    assert code == 0


def test_something_to_mend_exits_2(monkeypatch):
    code, out = call(monkeypatch, found=[bad("python", "3.12", "take 3.11")])

    assert code == 2 and out.splitlines()[-1] == "1 to mend; 1 looked at, 0 to know of"


def test_json_is_for_programs(monkeypatch):
    code, out = call(monkeypatch, "--json", found=[bad("python", "3.12", "take 3.11")])

    told = {"what": "python", "level": "bad", "told": "3.12", "fix": "take 3.11"}
    assert (code, json.loads(out)) == (2, {"usable": False, "findings": [told]})


def test_this_very_machine_is_looked_at_whole(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    found = {one.what: one for one in looked_at.check_all(tmp_path)}

    assert {"python", "versions", "cpus", "/dev/shm", "disk: runs", "open files", "ray token", "port 6379"} <= set(
        found
    )
    assert all(one.fix for one in found.values() if one.level == "bad")
