"""Who tells, to whom, and what becomes of a run whose tracker is not there."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_house import finish
from tracked_house import begun, curve_of, ended, finished, is_loaded, pending, runs_of, stage_runs

from fettle.errors import GateFailed, Interrupted, StageFailed
from fettle.pipeline import tracking
from fettle.pipeline.recorded import EMBEDDED, alone, is_being_told, pending_records
from fettle.pipeline.telling import tell_rest
from fettle.pipeline.tracked_runs import read_runs


@pytest.mark.parametrize(
    ("failure", "state"),
    [
        (None, "finished"),
        (StageFailed("out of memory"), "failed"),
        (KeyboardInterrupt("SIGINT"), "interrupted"),
        (Interrupted("SIGTERM"), "interrupted"),
        (GateFailed("rouge1 is 0.1"), "gate failed"),
    ],
)
def test_how_a_run_ended_is_noted_and_raised_as_it_was(tracked, monkeypatch, failure, state):
    monkeypatch.setattr(tracking, "_start", lambda out, record: None)
    tracked.out.mkdir()
    raised, said = None, []
    try:
        with tracking.tracked(tracked.recipe(), tracked.plan(), tracked.out, said.append):
            if failure is not None:
                raise failure
    except BaseException as error:
        raised = error
    (record,) = pending_records(tracked.folder)
    told = json.loads(record.read_text())
    assert raised is failure and (told["state"], told["error"]) == (state, str(failure or ""))
    assert said == ["tracking  not all told (its process did not start); fettle runs --sync tells the rest"]


def test_a_process_of_its_own_tells_and_makes_the_database(tracked, monkeypatch):
    monkeypatch.setattr(tracking, "_STARTS_S", 120.0)  # for machines that have much else to do
    shutil.rmtree(tracked.folder / EMBEDDED)
    tracked.out.mkdir()
    with (
        pytest.raises(StageFailed),
        tracking.tracked(tracked.recipe(), tracked.plan(), tracked.out, pytest.fail),
    ):
        raise StageFailed("out of memory")
    (run,) = runs_of(tracked)
    assert (run.tags["fettle.state"], run.tags["fettle.error"]) == ("failed", "out of memory")


def test_a_driver_that_was_killed_is_told_as_interrupted(tracked):
    _, record = begun(tracked)  # it says `running`, and nobody says otherwise
    command = [sys.executable, "-m", "fettle.pipeline.telling", str(record)]
    assert subprocess.run(command, stdin=subprocess.DEVNULL).returncode == 0
    (run,) = runs_of(tracked)
    assert run.tags["fettle.state"] == "interrupted" and pending(tracked) == []


def test_a_server_that_is_down_costs_a_line_and_the_rest_is_told_later(tracked):
    with socket.socket() as port:  # bound and not listening: refused
        port.bind(("127.0.0.1", 0))
        uri, said = f"http://127.0.0.1:{port.getsockname()[1]}", []
        recipe, stages = tracked.recipe(tracking=uri), tracked.plan(tracking=uri)
        tracked.out.mkdir()
        began = time.monotonic()
        with tracking.tracked(recipe, stages, tracked.out, said.append):
            for stage in stages:
                finish(stage)
        took = time.monotonic() - began
    (line,) = said
    assert line.startswith("tracking  not all told (") and line.endswith("; fettle runs --sync tells the rest")
    assert took < 20 and len(pending(tracked)) == 1

    (record,) = pending_records(tracked.folder)
    told = json.loads(record.read_text())
    record.write_text(json.dumps(told | {"uri": None}))  # as if the server were there again
    assert [why for _, why in tell_rest([record])] == [""]
    (run,) = runs_of(tracked)
    assert (run.state, run.metrics["instruct.loss.last"]) == ("finished", 2.0) and pending(tracked) == []
    assert curve_of(tracked, stage_runs(tracked)["instruct"], "loss") == [(1, 3.0), (2, 2.0), (3, 1.0)]


def test_a_server_that_hangs_does_not_keep_the_run(tracked, monkeypatch):
    monkeypatch.setattr(tracking, "WAITS_S", 0.5)
    monkeypatch.setattr(tracking, "_STARTS_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it takes connections and never answers
        uri, said = f"http://127.0.0.1:{silent.getsockname()[1]}", []
        recipe, stages = tracked.recipe(tracking=uri), tracked.plan(tracking=uri)
        tracked.out.mkdir()
        began = time.monotonic()
        with tracking.tracked(recipe, stages, tracked.out, said.append):
            pass
        took = time.monotonic() - began
    assert took < 5 and said == ["tracking  not all told (the tracker is too slow); fettle runs --sync tells the rest"]
    assert len(pending_records(tracked.folder)) == 1


def test_a_tracker_that_failed_is_asked_once_for_all_runs(tracked, monkeypatch):
    uri = "http://127.0.0.1:9"
    records = [begun(tracked, tracking=uri)[1], begun(tracked, tracking=uri, seed=1)[1]]
    asked = []

    class Down:
        def __init__(self, uri: str) -> None:
            asked.append(uri)
            raise ConnectionError("nobody is at http://me:secret@127.0.0.1:9")

    monkeypatch.setattr("fettle.pipeline.telling.Tracker", Down)
    assert [why for _, why in tell_rest(records)] == ["nobody is at http://127.0.0.1:9"] * 2 and asked == [uri]


def test_a_database_that_cannot_be_written_is_one_line(tracked):
    shutil.rmtree(tracked.folder / EMBEDDED)
    (tracked.folder / EMBEDDED).write_text("a file where the folder would be")
    _, record = begun(tracked)
    assert "File exists" in ended(record) and len(pending(tracked)) == 1


def test_another_tracker_is_told_of_stages_that_were_told_elsewhere(tracked):
    finished(tracked)
    record = begun(tracked, tracking={"uri": "anew"}, stages__instruct__lr=1e-5)[1]
    assert ended(record, "failed") == ""
    (run,) = read_runs(f"sqlite:///{tracked.folder / 'anew' / 'mlflow.db'}")
    assert run.tags["fettle.state"] == "failed" and run.metrics["domain.loss.last"] == 2.0


def test_a_run_under_way_is_left_to_its_own_process(tracked):
    _, record = begun(tracked)
    with alone(record.parent, waits=False) as is_alone:
        assert is_alone and is_being_told(tracked.out) and pending_records(tracked.folder) == []
        assert [why for _, why in tell_rest([record])] == [""]
    assert runs_of(tracked) == [] and pending_records(tracked.folder) == [record]


def test_a_run_is_told_where_the_recipe_says(tracked, tmp_path):
    _, record = begun(tracked, tracking={"uri": "elsewhere", "experiment": "trains"})
    assert ended(record) == ""
    (run,) = read_runs(f"sqlite:///{tmp_path / 'elsewhere' / 'mlflow.db'}")
    assert run.experiment == "trains" and runs_of(tracked) == []


def test_mlflows_own_setting_is_honoured_and_the_recipe_goes_before_it(tracked, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'team.db'}")
    finished(tracked)
    ended(begun(tracked, tracking="own", seed=1)[1])
    assert [len(read_runs(f"sqlite:///{tmp_path / name}")) for name in ("team.db", "own/mlflow.db")] == [1, 1]
    assert runs_of(tracked) == []


def test_the_driver_and_what_it_imports_load_no_mlflow():
    assert not is_loaded("mlflow", "import fettle.pipeline.runner, fettle.train.worker, fettle.rl.stage")


def test_workers_get_deepspeed_without_mlflow_which_can_be_imported_after_all():
    program = """from fettle.train.zero import load_deepspeed
load_deepspeed()
from trl import SFTTrainer
assert "mlflow" not in sys.modules
import mlflow"""
    assert is_loaded("mlflow", program)


def test_who_tells_loads_no_torch():
    assert not is_loaded("torch", "import fettle.pipeline.telling")


def test_the_record_says_where_data_lay(tracked):
    _, record = begun(tracked)
    stage = json.loads(record.read_text())["stages"][1]
    assert [Path(file).name for one in stage["data"] for file in one["files"]] == ["chat.jsonl", "general.jsonl"]
