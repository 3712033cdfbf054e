"""An artifact is whole or absent, and told apart by what is in it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fettle.artifact import Artifact, _code_in, code_version, digest_folder, is_artifact, new_artifact, read_artifact
from fettle.errors import FettleError, UserError

FILES = {"model.safetensors": b"weights", "tokenizer.json": b"{}", "deep/more.json": b"[]"}


def fill(folder: Path, files: dict[str, bytes] = FILES) -> None:
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


def make(path: Path, files: dict[str, bytes] = FILES, **told: Any) -> Artifact:
    with new_artifact(path, kind="model", name="sft", fingerprint="f", **told) as folder:
        fill(folder, files)
    return read_artifact(path)


def taken_over() -> None:
    raise FettleError("another run has taken over")


def test_an_artifact_says_what_it_was_made_from(tmp_path):
    told = {
        "base": {"path": "/base", "digest": "sha256:1"},
        "parents": ("sha256:1", "sha256:2"),
        "recipe": "r",
        "data": {"chat.jsonl": "d"},
        "seed": 3,
        "versions": {"torch": "2"},
        "metrics": {"loss": {"first": 2.0, "last": None}},
        "licences": ("MIT",),
        "unlicensed": ("chat.jsonl",),
    }
    made = make(tmp_path / "sft", **told)
    assert (made.path, made.kind, made.name, made.fingerprint) == (tmp_path / "sft", "model", "sft", "f")
    assert {key: getattr(made, key) for key in told} == told


def test_an_artifact_says_by_which_code_it_was_made(tmp_path):
    assert make(tmp_path / "sft").code == code_version() != ""


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_code_is_its_checkouts_commit_and_what_was_changed_since(tmp_path):
    package = tmp_path / "platform" / "fettle"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")

    def git(*words: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        return subprocess.run(["git", "-C", tmp_path, *who, *words], check=True, capture_output=True, text=True).stdout

    git("init")
    assert _code_in(package).startswith("fettle ")  # a checkout that it is installed inside of
    git("add", ".")
    git("commit", "-m", "one")
    commit = git("rev-parse", "HEAD").strip()
    assert _code_in(package) == f"commit {commit}"
    told = []
    for text in ("x = 1", "x = 2", "x = 1"):
        (package / "new.py").write_text(text)
        told.append(_code_in(package))
    assert told[0].startswith(f"commit {commit}, changed (source ") and told[0] == told[2] != told[1]


def test_a_finished_artifact_lies_alone_in_its_folder(tmp_path):
    make(tmp_path / "artifacts" / "sft")
    assert os.listdir(tmp_path / "artifacts") == ["sft"]
    found = {file.relative_to(tmp_path / "artifacts/sft").as_posix() for file in tmp_path.rglob("*") if file.is_file()}
    assert found == {*FILES, "artifact.json"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_while_it_is_filled_leaves_nothing(tmp_path, error):
    with pytest.raises(error), new_artifact(tmp_path / "sft", kind="model", name="sft", fingerprint="f") as folder:
        fill(folder)
        raise error
    assert os.listdir(tmp_path) == []


def test_a_writer_that_may_not_commit_leaves_nothing(tmp_path):
    with pytest.raises(FettleError, match="taken over"):
        make(tmp_path / "sft", may_commit=taken_over)
    assert os.listdir(tmp_path) == []


def test_it_is_asked_for_leave_when_it_is_complete_and_not_yet_there(tmp_path):
    seen: list[list[str]] = []

    def look() -> None:
        (partial,) = tmp_path.iterdir()
        seen.append([partial.name.split("-")[0], *sorted(file.name for file in partial.iterdir())])

    make(tmp_path / "sft", may_commit=look)
    assert seen == [[".partial", "artifact.json", "deep", "model.safetensors", "tokenizer.json"]]


@pytest.mark.parametrize("name", ["training_args.bin", "deep/optimizer.pt", "model.pth", "state.pkl"])
def test_files_that_can_run_code_when_loaded_are_refused(tmp_path, name):
    with pytest.raises(FettleError, match=f"refusing to publish {Path(name).name}: artifacts hold safetensors only"):
        make(tmp_path / "sft", FILES | {name: b"x"})
    assert os.listdir(tmp_path) == []


def test_the_same_files_have_the_same_digest_wherever_and_by_whomever_they_were_written(tmp_path):
    backwards = dict(reversed(FILES.items()))
    one, other = make(tmp_path / "a", seed=1), make(tmp_path / "deep" / "b", backwards, seed=2)
    assert one.digest == other.digest and one.digest.startswith("sha256:")


@pytest.mark.parametrize(
    "changed",
    [
        FILES | {"tokenizer.json": b"[]"},
        {("renamed.json" if name == "tokenizer.json" else name): content for name, content in FILES.items()},
        FILES | {"more.json": b""},
        {**FILES, "deep/artifact.json": b"{}"},  # only the one at the top is not counted
    ],
)
def test_the_digest_changes_with_content_and_names(tmp_path, changed):
    assert make(tmp_path / "a").digest != make(tmp_path / "b", changed).digest


def test_the_digest_does_not_depend_on_the_manifest(tmp_path):
    made = make(tmp_path / "a")
    (made.path / "artifact.json").write_text("{}")
    assert digest_folder(made.path) == made.digest


def test_verifying_finds_a_file_that_has_changed_since(tmp_path):
    made = make(tmp_path / "a")
    assert read_artifact(made.path, verify=True) == made
    (made.path / "model.safetensors").write_bytes(b"Weights")
    assert read_artifact(made.path) == made  # reading alone hashes nothing
    with pytest.raises(UserError, match=r"its files no longer match the digest in artifact\.json"):
        read_artifact(made.path, verify=True)


def test_a_folder_without_a_manifest_is_no_artifact(tmp_path):
    fill(tmp_path)
    assert not is_artifact(tmp_path)
    with pytest.raises(
        UserError, match=r"no readable artifact\.json .*\n  expected: an artifact's folder made by fettle"
    ):
        read_artifact(tmp_path)


@pytest.mark.parametrize("content", ["", '{"kind": "mod', "{}", "[]", '{"parents": [], "licences": [], "colour": 1}'])
def test_a_manifest_that_is_none_of_ours_is_a_users_mistake(tmp_path, content):
    (tmp_path / "artifact.json").write_text(content)
    with pytest.raises(UserError, match=r"no readable artifact\.json"):
        read_artifact(tmp_path)


def test_the_manifest_is_json_with_sorted_keys_and_no_path(tmp_path):
    told = json.loads((make(tmp_path / "a").path / "artifact.json").read_text())
    assert list(told) == sorted(told) and "path" not in told and told["kind"] == "model"


def test_an_artifact_is_never_written_over(tmp_path):
    first = make(tmp_path / "a")
    with pytest.raises(OSError):
        make(tmp_path / "a", {"model.safetensors": b"other"})
    assert read_artifact(tmp_path / "a", verify=True) == first and os.listdir(tmp_path) == ["a"]


def test_everything_is_on_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    order: list[str] = []
    sync, rename = os.fsync, os.rename

    def note(what: str, call: Callable[..., None]) -> Callable[..., None]:
        return lambda *args: (order.append(what), call(*args))[1]

    monkeypatch.setattr(os, "fsync", note("sync", sync))
    monkeypatch.setattr(os, "rename", note("rename", rename))
    make(tmp_path / "a")
    # Three files, the manifest, the folder below and the folder itself; then the name, and the folder that has it.
    assert order == ["sync"] * 6 + ["rename", "sync"]
