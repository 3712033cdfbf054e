"""What is sent while a run goes on: by a process of its own, by one run at a time, whatever storage does meanwhile."""

from __future__ import annotations

import errno
import io
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_house import finish
from storage_house import StorageHouse, tree

from fettle.errors import Interrupted, StageFailed, UserError
from fettle.pipeline import mirrored, runner, sending
from fettle.pipeline.sender import TakenOver
from fettle.pipeline.storage import FOLDER, Storage
from fettle.pipeline.taking_up import RECORD


@pytest.fixture(autouse=True)
def _a_busy_machine_says_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirrored, "_TOLD_AFTER_S", float("inf"))


def until(holds) -> None:
    """Until it holds; fails after a minute."""
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_process_sends_what_comes_and_the_rest_at_the_end(stored: StorageHouse):
    one, other, said = stored.machine("one"), stored.machine("other"), []
    one.take_up()
    with mirrored.mirrored(one.recipe, one.out, said.append):
        one.checkpoint(10)
        until(lambda: any("checkpoints/step-00000010/complete.json" in name for name in stored.names()))
        (one.out / "report.html").write_text("<html>")
    other.take_up()
    assert said == [f"storage   all of it is in s3://{stored.bucket}/line/out"]
    assert tree(other.out) == {path: content for path, content in tree(one.out).items() if path != "logs/storage.log"}


def test_a_run_goes_on_while_storage_is_away_and_sends_it_afterwards(stored: StorageHouse):
    one, said = stored.machine("one"), []
    one.take_up()
    with mirrored.mirrored(one.recipe, one.out, said.append):
        stored.server.door.shut()
        one.checkpoint(10)
        until(lambda: said)
        finish(one.stages[1])
        stored.server.door.open()
    place = f"storage   s3://{stored.bucket}/line/out"
    assert said[0].startswith(f"{place} does not take what is new (NETWORK_CONNECTION: ")
    assert said[0].endswith("); the run goes on, and it is tried again")
    assert said[1:] == [f"{place} takes what is new again", f"storage   all of it is in s3://{stored.bucket}/line/out"]
    assert any(name.startswith("artifacts/instruct") for name in stored.names())


@pytest.mark.parametrize("failure", [Interrupted("SIGTERM"), KeyboardInterrupt("SIGINT")])
def test_an_interrupted_run_waits_for_a_while_and_says_that_not_all_is_there(stored, monkeypatch, failure):
    monkeypatch.setattr(mirrored, "INTERRUPTED_WAITS_S", 1.0)
    one, said = stored.machine("one"), []
    one.take_up()
    try:
        with pytest.raises(type(failure)), mirrored.mirrored(one.recipe, one.out, said.append):
            stored.server.door.shut()
            one.checkpoint(10)
            raise failure
    finally:
        stored.server.door.open()
    log = one.out / "logs" / "storage.log"
    assert said[-1] == f"storage   not all of it is there (see {log}); the same command sends the rest"

    one.sent()  # the same command
    other = stored.machine("other")
    assert other.take_up() and len(list(other.out.glob("stages/*/checkpoints/step-*"))) == 1


def test_storage_that_stays_away_at_the_end_is_given_up_and_the_run_is_as_it_was(
    stored: StorageHouse, monkeypatch, capsys
):
    monkeypatch.setattr(sending, "_GIVES_UP_S", 0.0)
    monkeypatch.setattr(sending.select, "select", lambda *_: [[sys.stdin]])
    monkeypatch.setattr("sys.stdin", io.StringIO("over\n"))
    monkeypatch.setattr(sending.time, "sleep", lambda seconds: None)
    one = stored.machine("one")
    one.take_up()
    finish(one.stages[0])
    sender = one.sender()
    stored.server.door.shut()
    try:
        assert sending._follow(sender) == 1
    finally:
        stored.server.door.open()
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(f"say storage   not all of it is in s3://{stored.bucket}/line/out (NETWORK_CONNECTION")
    assert last.endswith("; the same command sends the rest")


def test_a_failure_is_raised_as_it_was_and_all_is_sent_first(stored: StorageHouse):
    one, said = stored.machine("one"), []
    one.take_up()
    with pytest.raises(StageFailed, match="out of memory"), mirrored.mirrored(one.recipe, one.out, said.append):
        one.checkpoint(10)
        raise StageFailed("out of memory")
    assert said == [f"storage   all of it is in s3://{stored.bucket}/line/out"]


def test_what_a_driver_that_was_killed_has_left_is_sent_too(stored: StorageHouse, capsys):
    one, other = stored.machine("one"), stored.machine("other")
    one.take_up()
    one.checkpoint(10)
    command = [sys.executable, "-m", "fettle.pipeline.sending", str(one.out / FOLDER / RECORD)]
    assert subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True).returncode == 0
    other.take_up()
    assert "which has not said that it ended" in capsys.readouterr().out
    assert len(list(other.out.glob("stages/*/checkpoints/step-*"))) == 1


def test_the_run_that_came_last_takes_over_and_the_other_sends_nothing_more(stored: StorageHouse, capsys):
    one, other, said = stored.machine("one"), stored.machine("other"), []
    one.take_up()
    with mirrored.mirrored(one.recipe, one.out, said.append):
        other.take_up()
        assert (
            f"taken over from {json.loads(stored.server.read(f'{stored.place}/.epoch'))['host']}"
            in capsys.readouterr().out
        )
        one.checkpoint(10)
        until(lambda: said)
        before = stored.names()
    assert stored.names() == before and not any("checkpoints" in name for name in before)
    (line,) = said
    assert f"in {other.out}, has taken it over; nothing more is sent from here" in line


@pytest.mark.parametrize("epoch_s", [0.0, 3600.0])  # it is looked at before each file; or only before a listing
def test_a_run_is_fenced_off_in_the_middle_of_what_it_sends(stored: StorageHouse, monkeypatch, epoch_s):
    monkeypatch.setattr("fettle.pipeline.sender._EPOCH_S", epoch_s)
    one, other = stored.machine("one"), stored.machine("other")
    one.take_up()
    one.checkpoint(10)
    sender, sends = one.sender(), Storage.send

    def fenced(storage, file, path, size, told):
        if file.name == "weights":
            other.take_up()
        return sends(storage, file, path, size, told)

    monkeypatch.setattr(Storage, "send", fenced)
    with pytest.raises(TakenOver, match="has taken it over"):
        sender.send(is_over=False)
    assert not any(name.startswith("sent/domain") for name in stored.names())
    assert any("complete.json" in name for name in stored.names()) == (epoch_s > 0)


def test_one_that_ended_or_was_in_this_very_folder_is_not_told_of(stored: StorageHouse, capsys):
    one, other, said = stored.machine("one"), stored.machine("other"), []
    one.take_up()
    one.take_up()  # killed, and run again
    with mirrored.mirrored(one.recipe, one.out, said.append):
        pass
    other.take_up()
    assert capsys.readouterr().out == ""


def test_a_checkpoint_that_the_run_drops_while_it_is_sent_arrives_whole(stored: StorageHouse, monkeypatch):
    one, other = stored.machine("one"), stored.machine("other")
    one.take_up()
    folder, sends = one.checkpoint(10), Storage.send

    def dropped(storage, file, path, size, told):
        shutil.rmtree(folder, ignore_errors=True)
        return sends(storage, file, path, size, told)

    monkeypatch.setattr(Storage, "send", dropped)
    one.sender().send(is_over=False)
    other.take_up()
    (there,) = other.out.glob("stages/*/checkpoints/step-*")
    assert (there / "weights").read_text() == "weights after 10"


def test_where_there_are_no_hard_links_it_is_left_alone_or_arrives_whole(stored: StorageHouse, monkeypatch):
    monkeypatch.setattr("os.link", lambda *_: (_ for _ in ()).throw(OSError(errno.EPERM, "no links")))
    one, other = stored.machine("one"), stored.machine("other")
    one.take_up()
    one.checkpoint(10)
    one.sender().send(is_over=False)
    folder, sends = one.checkpoint(20), Storage.send

    def dropped(storage, file, path, size, told):
        if file.name == "weights":
            shutil.rmtree(folder, ignore_errors=True)
        return sends(storage, file, path, size, told)

    monkeypatch.setattr(Storage, "send", dropped)
    one.sender().send(is_over=False)
    other.take_up()
    assert [path.name for path in other.out.glob("stages/*/checkpoints/step-*")] == ["step-00000010"]


def test_what_is_there_is_not_sent_again(stored: StorageHouse, monkeypatch):
    one, sent = stored.machine("one"), []
    one.take_up()
    finish(one.stages[0])
    one.checkpoint(10, stage=1)
    one.sender().send(is_over=True)
    monkeypatch.setattr(Storage, "send", lambda self, file, *_: sent.append(file))
    one.sent()
    assert sent == []


@pytest.mark.parametrize(
    ("storage", "told"),
    [
        ({"uri": "s3://no-such-bucket/line"}, "there is no bucket 'no-such-bucket'"),
        ({"endpoint": "http://127.0.0.1:9"}, "does not answer (NETWORK_CONNECTION: "),
        ({"uri": "no/such/folder", "endpoint": None}, "no/such/folder is not there"),
        ({"uri": ".", "endpoint": None}, "would keep"),
    ],
)
def test_storage_that_is_not_there_is_one_error_before_anything_starts(stored: StorageHouse, storage, told):
    uri = {key: value for key, value in (stored.storage | storage).items() if value}
    with pytest.raises(UserError) as error:
        runner.run(stored.house.file, out=stored.house.folder / "out", set={"storage": uri})
    assert told in error.value.got and error.value.field == "storage" and error.value.file == stored.house.file
    assert "--set storage=off" in str(error.value.fix) or "another disk" in str(error.value.fix)
    assert not stored.house.out.exists()


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({}, "who may read and write there; none is told of here"),
        ({"AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE", "AWS_SECRET_ACCESS_KEY": "x"}, "who may read and write there"),
    ],
)
def test_storage_that_lets_nobody_in_is_one_error(stored: StorageHouse, monkeypatch, keys, told):
    stored.machine("one").take_up()  # moto answers 500 to who asks, without keys, for what is not there
    for key in stored.server.env:
        monkeypatch.delenv(key)
    for key, value in keys.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(UserError, match="does not let us in .ACCESS_DENIED") as error:
        stored.machine("other").take_up()
    assert error.value.expected == told and "AWS_PROFILE" in str(error.value.fix)


def test_a_place_that_holds_another_recipes_run_is_left_alone(stored: StorageHouse):
    stored.machine("one").sent()
    before = stored.server.read(f"{stored.place}/.epoch")
    with pytest.raises(UserError, match="holds a run of 'northline'"):
        stored.machine("other").take_up(name="southline")
    assert stored.server.read(f"{stored.place}/.epoch") == before


def test_who_sends_loads_no_torch():
    code = "import sys, fettle.pipeline.sending; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_recipe_without_storage_starts_nothing(house, tmp_path: Path):
    with mirrored.mirrored(house.recipe(), tmp_path / "nowhere", pytest.fail):
        pass
    assert not (tmp_path / "nowhere").exists()
