"""A run's folder in a bucket, on a real S3 server: what a new machine goes on from, and what it never takes."""

from __future__ import annotations

import json
import shutil

import pytest
from small_house import finish
from storage_house import Machine, StorageHouse, tree

from fettle.artifact import read_artifact
from fettle.errors import FettleError, UserError
from fettle.pipeline.storage import Storage
from fettle.train.checkpoint import Checkpoints, Fence


def latest(machine: Machine, stage: int = 0) -> int | None:
    """The step that the stage would go on from, as its workers choose it."""
    planned = machine.stages[stage]
    fence = Fence(machine.out / ".epoch", machine.token)
    found = Checkpoints(planned.folder / "checkpoints", planned.fingerprint, 2, fence).latest()
    return found[0] if found else None


@pytest.mark.parametrize("place", ["bucket", "bucket of AWS_ENDPOINT_URL", "folder"])
def test_another_machine_has_every_byte_that_matters(stored: StorageHouse, monkeypatch, tmp_path, place):
    one, other = stored.machine("one"), stored.machine("other")
    if "URL" in place:
        monkeypatch.setenv("AWS_ENDPOINT_URL", stored.server.endpoint)
        one.storage = other.storage = stored.storage["uri"]
    if place == "folder":
        (tmp_path / "mounted").mkdir()
        one.storage = other.storage = f"file://{tmp_path}/mounted"
    one.take_up()
    finish(one.stages[0])
    one.checkpoint(10, stage=1)
    (one.out / "evaluations").mkdir()
    (one.out / "evaluations" / "base-0123.json").write_text("{}")
    (one.out / "tracking").mkdir()
    (one.out / "tracking" / "id").write_text("the folder")
    one.sender().send(is_over=True)
    before = tree(one.out)
    shutil.rmtree(one.out)

    assert other.take_up()
    assert tree(other.out) == before
    assert other.stages[0].is_done and latest(other, stage=1) == 10


def test_what_is_made_again_anywhere_and_what_is_of_one_machine_stays_there(stored: StorageHouse):
    one = stored.machine("one")
    one.take_up()
    one.checkpoint(10)
    for name in ("tokens/abc/ids", "logs/run.log", "ray/state", "run.json", "tracking/ab.json", ".lock"):
        (one.out / name).parent.mkdir(parents=True, exist_ok=True)
        (one.out / name).write_text("of this machine")
    one.sender().send(is_over=True)
    tops = {name.partition("/")[0] for name in stored.names()}
    assert tops == {".epoch", "sent", "stages"}


def test_checkpoints_are_dropped_there_as_here(stored: StorageHouse):
    one = stored.machine("one")
    one.take_up()
    sender = one.sender()
    for step in (10, 20, 30):
        one.checkpoint(step, keep=2)
        sender.send(is_over=False)
    steps = {name.split("/")[3] for name in stored.names() if "/checkpoints/" in name}
    assert steps == {"step-00000020", "step-00000030"}

    finish(one.stages[0])
    shutil.rmtree(one.stages[0].folder / "checkpoints")
    sender.send(is_over=False)
    assert not any("/checkpoints/" in name for name in stored.names())


def test_the_newest_checkpoint_is_fetched_and_no_older_one(stored: StorageHouse):
    one, other = stored.machine("one"), stored.machine("other")
    one.take_up()
    one.checkpoint(10)
    one.checkpoint(20)
    one.sender().send(is_over=True)
    other.take_up()
    folder = other.stages[0].folder / "checkpoints"
    assert [path.name for path in folder.iterdir()] == ["step-00000020"]


def test_where_the_best_is_kept_the_older_ones_are_fetched_too(stored: StorageHouse):
    early = {"early_stop": {"every": 5, "patience": 2}, "heldout": {"fraction": 0.1}}
    pretrain = {"name": "domain", "kind": "pretrain", "data": "corpus.txt", **early}
    stored.house = stored.house.with_stages(pretrain)
    one, other = stored.machine("one"), stored.machine("other")
    one.take_up()
    one.checkpoint(10)
    one.checkpoint(20)
    one.sender().send(is_over=True)
    other.take_up()
    assert len(list((other.stages[0].folder / "checkpoints").iterdir())) == 2


def test_a_machine_that_came_further_fetches_nothing(stored: StorageHouse, capsys):
    one, other = stored.machine("one"), stored.machine("other")
    one.take_up()
    one.checkpoint(10)
    one.sender().send(is_over=True)
    other.out.mkdir(parents=True)
    other.checkpoint(10, content="its own")
    assert not other.take_up()
    assert (other.stages[0].folder / "checkpoints/step-00000010/weights").read_text() == "its own"


def test_a_machine_that_is_behind_goes_on_from_what_is_there(stored: StorageHouse):
    one, other = stored.machine("one"), stored.machine("other")
    one.take_up()
    one.checkpoint(10)
    one.checkpoint(20)
    one.sender().send(is_over=True)
    other.out.mkdir(parents=True)
    other.checkpoint(10)
    other.take_up()
    assert latest(other) == 20
    assert (other.stages[0].folder / "progress.jsonl").read_text().count("\n") == 2


@pytest.mark.parametrize("what", ["changed", "cut", "missing"])
def test_a_damaged_checkpoint_is_never_taken_and_the_one_before_is(stored: StorageHouse, capsys, what):
    one, other = stored.machine("one"), stored.machine("other")
    one.take_up()
    one.checkpoint(10)
    one.checkpoint(20)
    one.sender().send(is_over=True)
    (victim,) = [name for name in stored.names() if "step-00000020/optimizer" in name]
    content = stored.server.read(f"{stored.place}/{victim}")
    if what == "missing":
        stored.server.fs.delete_file(f"{stored.place}/{victim}")
    else:
        stored.server.write(f"{stored.place}/{victim}", content[:-4] if what == "cut" else content[:-1] + b"?")
    other.take_up()
    assert latest(other) == 10
    assert "domain's checkpoint step-00000020 is not taken: " in capsys.readouterr().out


def test_a_damaged_result_is_never_taken(stored: StorageHouse, capsys):
    one, other = stored.machine("one"), stored.machine("other")
    one.take_up()
    finish(one.stages[0])
    one.sender().send(is_over=True)
    (weights,) = [name for name in stored.names() if name.endswith("model.safetensors")]
    stored.server.write(f"{stored.place}/{weights}", b"something else")
    other.take_up()
    assert not other.stages[0].is_done and "domain's result is not taken: " in capsys.readouterr().out

    other.checkpoint(10)  # it is trained again, and what that comes to is kept
    other.sender().send(is_over=False)
    third = stored.machine("third")
    third.take_up()
    assert latest(third) == 10


def test_a_result_that_was_damaged_before_it_was_sent_is_not_taken(stored: StorageHouse, capsys):
    one, other = stored.machine("one"), stored.machine("other")
    one.take_up()
    (finish(one.stages[0]).path / "model.safetensors").write_bytes(b"a bad disk")
    one.sender().send(is_over=True)
    other.take_up()
    assert not other.stages[0].is_done and "no longer match the digest" in capsys.readouterr().out


def test_an_upload_that_was_broken_off_is_not_taken_and_its_remains_go(stored: StorageHouse, monkeypatch):
    one, other = stored.machine("one"), stored.machine("other")
    one.take_up()
    one.checkpoint(10)
    one.sender().send(is_over=False)
    one.checkpoint(20)
    sender = one.sender()
    sends = sender.storage.send

    def broken(file, path, size, told):
        if file.name == "weights":
            raise OSError("the machine went off")
        return sends(file, path, size, told)

    monkeypatch.setattr(sender.storage, "send", broken)
    with pytest.raises(OSError, match="went off"):
        sender.send(is_over=False)
    left = {name for name in stored.names() if "step-00000020" in name}
    assert left and not any(name.endswith("complete.json") for name in left)

    other.take_up()
    assert latest(other) == 10
    other.checkpoint(12)
    other.sender().send(is_over=False)
    assert not any("step-00000020" in name for name in stored.names())


def test_an_adapter_names_its_base_where_it_lies_now(stored: StorageHouse):
    stages = [{"name": "domain", "kind": "pretrain", "data": "corpus.txt"}]
    stages.append({"name": "instruct", "kind": "sft", "data": "chat.jsonl", "adapter": {"kind": "lora", "r": 4}})
    stored.house = stored.house.with_stages(*stages)
    one, other = stored.machine("one"), stored.machine("other")
    one.take_up()
    for stage in one.stages:
        finish(stage)
    one.sender().send(is_over=True)
    shutil.rmtree(one.out)
    other.take_up()
    domain, instruct = other.stages
    assert read_artifact(instruct.artifact, verify=True).base["path"] == str(domain.artifact)

    before = {name for name in stored.names() if name.startswith("artifacts/")}
    other.sender().send(is_over=True)  # sends no result again for that
    assert {name for name in stored.names() if name.startswith("artifacts/")} == before
    sent = json.loads(stored.server.read(f"{stored.place}/artifacts/{instruct.artifact.name}/artifact.json"))
    assert sent["base"]["path"].startswith(str(one.out))


def test_storage_that_breaks_off_is_our_failure_and_what_was_fetched_stays(stored: StorageHouse, monkeypatch):
    one, other = stored.machine("one"), stored.machine("other")
    one.take_up()
    finish(one.stages[0])
    one.checkpoint(10, stage=1)
    one.sender().send(is_over=True)
    fetch = Storage.fetch

    def broken(storage, path, sent, to, is_given_up):
        if "checkpoints" in path:
            raise OSError("no route to host")
        fetch(storage, path, sent, to, is_given_up)

    monkeypatch.setattr(Storage, "fetch", broken)
    with pytest.raises(FettleError, match="broke off .no route to host.; the same command goes on") as error:
        other.take_up()
    assert not isinstance(error.value, UserError) and other.stages[0].is_done and latest(other, stage=1) is None


def test_a_stage_that_is_there_under_other_settings_is_told_of(stored: StorageHouse, capsys):
    one = stored.machine("one")
    one.take_up()
    label = finish(one.stages[0]).path.name
    one.sender().send(is_over=True)
    stored.machine("other").take_up(seed=1)
    assert (
        f"domain is not taken up: {label} in s3://{stored.bucket}/line/out had other settings,"
        in capsys.readouterr().out
    )


def test_what_is_damaged_beside_a_checkpoint_is_left_out_with_what_belongs_to_it(stored: StorageHouse, capsys):
    one, other = stored.machine("one"), stored.machine("other")
    one.take_up()
    one.checkpoint(10)
    one.checkpoint(20)
    one.sender().send(is_over=True)
    (victim,) = [name for name in stored.names() if "rollouts/10.npz@" in name]
    stored.server.write(f"{stored.place}/{victim}", b"?")
    other.take_up()
    assert latest(other) == 20 and (other.stages[0].folder / "progress.jsonl").is_file()
    assert not list(other.stages[0].folder.glob("rollouts/*"))
    assert f"{victim} has other bytes than were sent; it is left out" in capsys.readouterr().out


def test_a_checkpoint_that_is_torn_here_is_no_reason_to_leave_an_older_one_there(stored: StorageHouse):
    one = stored.machine("one")
    one.take_up()
    one.checkpoint(10)
    one.sender().send(is_over=False)
    shutil.rmtree(one.out / "stages")
    (one.checkpoint(20) / "weights").write_text("a bad disk")
    one.sender().send(is_over=False)  # which is not sent either
    one.take_up()
    assert latest(one) == 10


def test_a_folder_that_is_behind_never_takes_the_place_of_what_came_further(stored: StorageHouse):
    one, other = stored.machine("one"), stored.machine("other")
    one.take_up()
    finish(one.stages[0])
    one.sender().send(is_over=True)
    other.out.mkdir(parents=True)
    other.checkpoint(10)
    other.take_up(seed=1)  # of that stage this run wants nothing
    other.sender().send(is_over=True)
    assert any(name.startswith("artifacts/domain") for name in stored.names())
