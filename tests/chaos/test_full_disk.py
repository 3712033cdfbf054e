"""A disk that is full, or may only be read: one message, nothing half-written, and what was there is still there."""

from __future__ import annotations

import errno
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fettle.artifact import new_artifact
from fettle.cli import main as command
from fettle.errors import FettleError, UserError, of_the_disk
from fettle.needs.preflight import check_disk
from fettle.registry.folder import FolderRegistry
from fettle.train.checkpoint import Checkpoints, Fence
from fettle.train.shares import shares_of
from fettle.train.writer import CheckpointWriter


def mount(*words: str | Path) -> bool:
    """Whether it could be done."""
    return subprocess.run(["mount", *map(str, words)], capture_output=True).returncode == 0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 512 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not mount("-t", "tmpfs", "-o", "size=512k", "tmpfs", folder):
        pytest.skip("no small disk can be mounted here (root is needed)")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def read_only(disk: Path) -> None:
    assert mount("-o", "remount,ro", disk)


def save(folder: Path, step: int, kib: int) -> None:
    """A checkpoint of so many KiB."""
    model = torch.nn.Linear(256, kib, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    checkpoints = Checkpoints(folder / "checkpoints", "fingerprint", keep=2, fence=Fence(folder / "epoch", "run"))
    writer = CheckpointWriter(checkpoints, f"attempt-{step}", rank=0, world=1)
    writer.write(step, shares_of(model, optimizer), optimizer.state)
    writer.wait()


def test_a_checkpoint_that_has_no_room_leaves_the_one_before(disk):
    (disk / "epoch").write_text("run")
    save(disk, 5, kib=200)

    told = r"the checkpoint of step 10 could not be written: .*\(.*checkpoints\); that of step 5 is there"
    with pytest.raises(FettleError, match=told):
        save(disk, 10, kib=400)

    checkpoints = Checkpoints(disk / "checkpoints", "fingerprint", keep=2, fence=Fence(disk / "epoch", "run"))
    assert checkpoints.latest()[0] == 5 and len(list(checkpoints.folder.iterdir())) == 1
    save(disk, 15, kib=200)  # it had room again
    assert checkpoints.latest()[0] == 15


def test_an_artifact_that_has_no_room_leaves_nothing(disk):
    with (
        pytest.raises(OSError) as raised,
        new_artifact(disk / "artifacts" / "large", kind="model", name="large", fingerprint="f") as partial,
    ):
        (partial / "model.safetensors").write_bytes(bytes(1 << 20))
    assert raised.value.errno == errno.ENOSPC
    assert "No space left on device" in str(of_the_disk(raised.value))
    assert list((disk / "artifacts").iterdir()) == []


def large_adapter(folder: Path) -> Path:
    folder.mkdir()
    told = {"peft_type": "LORA", "r": 1, "target_modules": ["q_proj"], "base_model_name_or_path": "tiny"}
    (folder / "adapter_config.json").write_text(json.dumps(told))
    name = "base_model.model.q_proj.lora_A.weight"
    save_file({name: torch.ones(1, 1 << 18)}, folder / "adapter_model.safetensors")
    return folder


def test_a_version_that_has_no_room_is_not_there(disk, tmp_path):
    registry = FolderRegistry(disk / "registry")
    with pytest.raises(OSError) as raised:
        registry.publish("support", large_adapter(tmp_path / "large"))
    assert "make room there" in str(of_the_disk(raised.value))
    assert registry.versions("support") == [] and not list(disk.rglob(".partial-*"))


def test_a_folder_that_may_only_be_read_is_refused_before_anything_starts(disk):
    read_only(disk)
    with pytest.raises(UserError, match=r"disk may not be written to") as told:
        check_disk(disk / "runs" / "northline", [])
    assert told.value.field == "--out"


def test_a_command_ends_with_one_message(disk, tmp_path, monkeypatch, capsys):
    read_only(disk)
    words = ["fettle", "publish", str(large_adapter(tmp_path / "large")), "--name", "support"]
    monkeypatch.setattr("sys.argv", [*words, "--registry", str(disk / "registry")])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        f"fettle: {disk / 'registry'}: Read-only file system\n  fix: name a place that may be written to\n"
    )
