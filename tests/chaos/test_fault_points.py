"""Killed between any two file operations, a writer leaves the old or the new, whole; and what comes after works."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fettle.artifact import is_artifact, new_artifact, read_artifact, replace_text, sweep_partials
from fettle.registry.folder import FolderRegistry
from fettle.registry.reference import parsed
from fettle.train.checkpoint import Checkpoints, Fence
from fettle.train.shares import shares_of
from fettle.train.writer import CheckpointWriter, Written
from killing import killed_everywhere


@pytest.fixture
def folders(tmp_path: Path) -> Iterator[Path]:
    """One new folder after the other."""
    return (tmp_path / str(number) for number in range(1000))


def prepared(folders: Iterator[Path], prepare) -> Iterator[Path]:
    for folder in folders:
        folder.mkdir()
        prepare(folder)
        yield folder


def checkpoints_in(folder: Path) -> Checkpoints:
    return Checkpoints(folder / "checkpoints", "fingerprint", keep=1, fence=Fence(folder / "epoch", "run"))


def save(folder: Path, step: int, attempt: str) -> None:
    """A checkpoint of a small model whose weights are all `step`."""
    model = torch.nn.Linear(2, 2)
    torch.nn.init.constant_(model.weight, step)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    writer = CheckpointWriter(checkpoints_in(folder), attempt, rank=0, world=1)
    writer.write(step, shares_of(model, optimizer), optimizer.state)
    writer.wait()


def weights_in(folder: Path) -> set[float]:
    model = torch.nn.Linear(2, 2)
    Written(folder).stored.load_weights(model)
    return set(model.weight.flatten().tolist())


def test_a_checkpoint_is_the_old_one_or_the_new_one(folders):
    def begin(folder: Path) -> None:
        (folder / "epoch").write_text("run")
        save(folder, 5, "first")

    seen = []
    for folder in killed_everywhere(prepared(folders, begin), lambda folder: save(folder, 10, "killed")):
        checkpoints = checkpoints_in(folder)
        step, found = checkpoints.latest()
        assert weights_in(found) == {step}
        checkpoints.sweep()
        assert {one.name for one in checkpoints.folder.iterdir()} >= {f"step-{step:08d}"}
        save(folder, 15, "after")
        assert checkpoints.latest()[0] == 15 and len(list(checkpoints.folder.iterdir())) == 1
        seen.append(step)
    assert set(seen) == {5, 10} and seen == sorted(seen) and len(seen) > 15


def write_artifact(folder: Path) -> None:
    with new_artifact(folder / "artifacts" / "polite", kind="model", name="polite", fingerprint="f") as partial:
        save_file({"weight": torch.ones(2)}, partial / "model.safetensors")
        (partial / "config.json").write_text("{}")


def test_an_artifact_is_there_whole_or_not_at_all(folders):
    seen = []
    for folder in killed_everywhere(prepared(folders, lambda folder: None), write_artifact):
        path = folder / "artifacts" / "polite"
        seen.append(is_artifact(path))
        sweep_partials(folder / "artifacts")
        if seen[-1]:
            read_artifact(path, verify=True)
        else:
            assert not path.exists()
            write_artifact(folder)
        assert [one.name for one in (folder / "artifacts").iterdir()] == ["polite"]
    assert seen[0] is False and seen[-1] is True and seen == sorted(seen)


def test_a_file_holds_the_old_text_or_the_new(folders):
    texts = [
        (folder / "run.json").read_text()
        for folder in killed_everywhere(
            prepared(folders, lambda folder: (folder / "run.json").write_text("old")),
            lambda folder: replace_text(folder / "run.json", "new"),
        )
    ]
    assert set(texts) == {"old", "new"} and texts == sorted(texts, reverse=True)


def adapter(folder: Path, value: float) -> Path:
    folder.mkdir()
    save_file(
        {"base_model.model.q_proj.lora_A.weight": torch.full((1, 2), value)}, folder / "adapter_model.safetensors"
    )
    told = {"peft_type": "LORA", "r": 1, "base_model_name_or_path": "tiny", "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(told))
    return folder


def test_a_registry_has_the_version_and_its_alias_or_not(folders):
    def begin(folder: Path) -> None:
        FolderRegistry(folder / "registry").publish("support", adapter(folder / "one", 1.0), alias="production")
        adapter(folder / "two", 2.0)

    seen = []
    for folder in killed_everywhere(
        prepared(folders, begin),
        lambda folder: FolderRegistry(folder / "registry").publish("support", folder / "two", alias="production"),
    ):
        registry = FolderRegistry(folder / "registry")
        now = registry.find(parsed("support@production"))
        seen.append(now.number)
        assert now.folder.is_dir() and now.number <= len(registry.versions("support")) <= 2
        again = registry.publish("support", folder / "two", alias="production")
        assert registry.find(parsed("support@production")).number == again.number
    assert set(seen) == {1, 2} and seen == sorted(seen)
