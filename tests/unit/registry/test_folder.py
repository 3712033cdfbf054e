"""Publishing, promoting and going back, in a folder; what is refused changes nothing."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from fettle.artifact import new_artifact
from fettle.errors import UserError
from fettle.registry.folder import FolderRegistry
from fettle.registry.reference import Reference, reference

MakeAdapter = Callable[..., Path]


@pytest.fixture
def registry(tmp_path: Path) -> FolderRegistry:
    return FolderRegistry(tmp_path / "registry")


@pytest.fixture
def adapter(tmp_path: Path) -> MakeAdapter:
    """`adapter("a")`: a folder with an adapter's files, which say "a"."""

    def make(said: str = "a") -> Path:
        folder = tmp_path / f"adapter-{said}"
        folder.mkdir()
        (folder / "adapter_config.json").write_text(json.dumps({"r": 4}))
        (folder / "adapter_model.safetensors").write_bytes(said.encode())
        return folder

    return make


def files(folder: Path) -> dict[str, bytes]:
    return {str(one.relative_to(folder)): one.read_bytes() for one in folder.rglob("*") if one.is_file()}


def test_a_version_is_published_promoted_and_gone_back_from(registry: FolderRegistry, adapter: MakeAdapter) -> None:
    first = registry.publish("support", adapter("a"))
    assert (first.id, registry.aliases("support")) == ("support:1", {"candidate": 1})

    registry.point("support", "production", 1)
    second = registry.publish("support", adapter("b"))
    assert registry.aliases("support") == {"candidate": 2, "production": 1}
    assert registry.find(reference("support")) == first
    assert registry.find(reference("support@candidate")) == second

    assert registry.point("support", "production", 2) == 1
    assert registry.find(reference("support")) == second
    assert registry.back("support") == first
    assert registry.aliases("support") == {"candidate": 2, "production": 1}
    assert registry.names() == ["support"]
    assert registry.state("adapter") == {"support": {"candidate": second, "production": first}}


def test_a_version_is_a_copy_that_stays_as_it_was(registry: FolderRegistry, adapter: MakeAdapter) -> None:
    source = adapter("a")
    version = registry.publish("support", source)

    (source / "adapter_model.safetensors").write_bytes(b"other")

    assert (version.folder / "adapter_model.safetensors").read_bytes() == b"a"
    assert registry.publish("support", source).number == 2
    assert registry.find(reference("support:1")) == version


def test_the_same_files_are_published_once(registry: FolderRegistry, adapter: MakeAdapter) -> None:
    source = adapter("a")
    assert registry.publish("support", source) == registry.publish("support", source, alias="trial")
    assert registry.aliases("support") == {"candidate": 1, "trial": 1}
    assert len(registry.versions("support")) == 1


def test_an_artifacts_digest_and_base_are_the_versions(registry: FolderRegistry, tmp_path: Path) -> None:
    base = {"path": "/models/tiny", "digest": "sha256:b"}
    with new_artifact(tmp_path / "sft", kind="adapter", name="sft", fingerprint="f", base=base) as folder:
        (folder / "adapter_config.json").write_text("{}")
        (folder / "adapter_model.safetensors").write_bytes(b"a")

    version = registry.publish("support", tmp_path / "sft")

    assert version.base == base
    assert version.digest == json.loads((tmp_path / "sft" / "artifact.json").read_text())["digest"]
    assert files(version.folder) == files(tmp_path / "sft")


def test_a_changed_artifact_is_refused(registry: FolderRegistry, tmp_path: Path) -> None:
    with new_artifact(tmp_path / "sft", kind="adapter", name="sft", fingerprint="f") as folder:
        (folder / "adapter_config.json").write_text("{}")
        (folder / "adapter_model.safetensors").write_bytes(b"a")
    (tmp_path / "sft" / "adapter_model.safetensors").write_bytes(b"b")

    with pytest.raises(UserError, match="no longer match the digest"):
        registry.publish("support", tmp_path / "sft")
    assert registry.names() == []


@pytest.mark.parametrize("stray", ["adapter_model.bin", "run.py", "state.pkl", "optimizer.pt", "weights"])
def test_files_that_may_run_code_are_refused(registry: FolderRegistry, adapter: MakeAdapter, stray: str) -> None:
    source = adapter()
    (source / stray).write_bytes(b"x")
    with pytest.raises(UserError, match="not a file that an adapter consists of"):
        registry.publish("support", source)
    assert not registry.root.exists()


def test_a_link_is_refused(registry: FolderRegistry, adapter: MakeAdapter) -> None:
    source = adapter()
    (source / "notes.txt").symlink_to("/etc/passwd")
    with pytest.raises(UserError, match="a link; only plain files are published"):
        registry.publish("support", source)


def test_what_is_neither_adapter_nor_model_is_refused(registry: FolderRegistry, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither an adapter nor a model in safetensors"):
        registry.publish("support", tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="no adapter in safetensors"):
        registry.publish("support", tmp_path)


def test_a_full_model_is_published_under_a_name_of_its_own(
    registry: FolderRegistry, adapter: MakeAdapter, tmp_path: Path
) -> None:
    (tmp_path / "merged").mkdir()
    (tmp_path / "merged" / "config.json").write_text("{}")
    (tmp_path / "merged" / "model.safetensors").write_bytes(b"w")

    version = registry.publish("merged", tmp_path / "merged")
    registry.publish("support", adapter())
    assert (version.kind, registry.kind("merged"), registry.kind("support")) == ("model", "model", "adapter")
    assert registry.state("model") == {"merged": {"candidate": version}}
    assert list(registry.state("adapter")) == ["support"]
    with pytest.raises(UserError, match="'merged' is a published model, and this is an adapter"):
        registry.publish("merged", adapter("b"))
    with pytest.raises(UserError, match="only adapters take places"):
        registry.pin("merged", True)


@pytest.mark.parametrize("name", ["../out", "a/b", "", "support:1", "support@x"])
def test_a_name_never_leaves_the_registry(registry: FolderRegistry, adapter: MakeAdapter, name: str) -> None:
    with pytest.raises(UserError, match="is no name for what is published"):
        registry.publish(name, adapter())
    assert not registry.root.exists()


def test_what_is_not_there_is_told_with_what_is(registry: FolderRegistry, adapter: MakeAdapter) -> None:
    registry.publish("support", adapter())
    with pytest.raises(UserError, match="nothing called 'suport' is published .*did you mean 'support'"):
        registry.find(Reference("suport"))
    with pytest.raises(UserError, match="'support' has no alias 'production'"):
        registry.find(Reference("support"))
    with pytest.raises(UserError, match="'support' has no version 2"):
        registry.point("support", "production", 2)
    with pytest.raises(UserError, match="there is nothing to go back to"):
        registry.back("support", "candidate")


def test_going_back_goes_on_to_what_was_before(registry: FolderRegistry, adapter: MakeAdapter) -> None:
    for said in "abc":
        registry.point("support", "production", registry.publish("support", adapter(said)).number)
    assert [registry.back("support").number, registry.back("support").number] == [2, 1]


def test_publishers_at_the_same_time_get_different_numbers(registry: FolderRegistry, adapter: MakeAdapter) -> None:
    sources = [adapter(f"{number}") for number in range(8)]
    threads = [threading.Thread(target=registry.publish, args=("support", source)) for source in sources]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    said = [
        (one.number, (one.folder / "adapter_model.safetensors").read_bytes()) for one in registry.versions("support")
    ]
    assert [number for number, _ in said] == list(range(1, 9))
    assert {text for _, text in said} == {str(number).encode() for number in range(8)}


def test_a_publisher_that_died_halfway_leaves_no_version(registry: FolderRegistry, adapter: MakeAdapter) -> None:
    registry.publish("support", adapter("a"))
    halfway = registry.root / "support" / "versions" / "2"
    halfway.mkdir()
    (halfway / "adapter_model.safetensors").write_bytes(b"half")

    assert [one.number for one in registry.versions("support")] == [1]
    version = registry.publish("support", adapter("b"))
    assert (version.number, (version.folder / "adapter_model.safetensors").read_bytes()) == (3, b"b")


def test_a_name_whose_folder_was_copied_has_versions_of_its_own(registry: FolderRegistry, adapter: MakeAdapter) -> None:
    registry.publish("support", adapter("a"))
    shutil.copytree(registry.root / "support", registry.root / "help")
    assert registry.find(reference("help@candidate")).id == "help:1"


def test_old_versions_may_be_deleted(registry: FolderRegistry, adapter: MakeAdapter) -> None:
    for said in "ab":
        registry.point("support", "production", registry.publish("support", adapter(said)).number)
    shutil.rmtree(registry.root / "support" / "versions" / "1")
    (registry.root / "support" / "versions" / "1.json").unlink()

    assert registry.names() == ["support"]
    assert registry.find(reference("support")).number == 2
    with pytest.raises(UserError, match="there is nothing to go back to"):
        registry.back("support")
    assert registry.find(reference("support")).number == 2


@pytest.mark.parametrize("text", ["[]", '{"production": 3}', '{"production": {}}', "{", '{"production": {"now": 1}}'])
def test_a_broken_file_breaks_its_own_name_alone(registry: FolderRegistry, adapter: MakeAdapter, text: str) -> None:
    whole = registry.publish("whole", adapter("a"))
    registry.publish("broken", adapter("b"))
    (registry.root / "broken" / "aliases.json").write_text(text)
    (registry.root / "whole" / "versions" / "1.bak.json").write_text("{")

    assert registry.state("adapter") == {"whole": {"candidate": whole}, "broken": None}
    with pytest.raises(UserError, match="not readable as aliases"):
        registry.find(reference("broken@candidate"))
