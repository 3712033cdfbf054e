"""What a registry's files say by now: read once, and again where they were replaced."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from fettle.artifact import replace_text
from fettle.errors import UserError
from fettle.registry.stored import Stored


def write(root: Path, number: int, digest: str = "sha256:1") -> None:
    folder = root / "support" / "versions"
    (folder / str(number)).mkdir(parents=True, exist_ok=True)
    told = {"name": "support", "number": number, "digest": digest, "size": 1, "published": "2026-11-30"}
    replace_text(folder / f"{number}.json", json.dumps(told))


def test_a_file_that_was_not_replaced_is_not_read_again(tmp_path: Path) -> None:
    write(tmp_path, 1)
    stored = Stored(tmp_path)
    assert stored.version("support", 1) is stored.version("support", 1)


def test_a_registry_that_was_made_anew_is_read_anew(tmp_path: Path) -> None:
    write(tmp_path, 1)
    stored = Stored(tmp_path)
    assert stored.read("support", 1).digest == "sha256:1"
    shutil.rmtree(tmp_path / "support")
    assert stored.version("support", 1) is None and stored.names() == [] and not stored.is_published("support")
    write(tmp_path, 1, "sha256:2")
    assert stored.read("support", 1).digest == "sha256:2"


def test_an_alias_that_moved_means_another_number(tmp_path: Path) -> None:
    write(tmp_path, 1)
    stored, file = Stored(tmp_path), tmp_path / "support" / "aliases.json"
    assert stored.aliases("support") == {}
    for number in (1, 2, 1):
        replace_text(file, json.dumps({"production": {"now": number, "before": []}}))
        assert stored.aliases("support")["production"]["now"] == number


def test_only_numbers_of_whole_versions_count(tmp_path: Path) -> None:
    for number in (1, 2, 10):
        write(tmp_path, number)
    for name in ("0.json", "03.json", "x.json", "4", ".partial-5.json"):
        (tmp_path / "support" / "versions" / name).touch()
    stored = Stored(tmp_path)
    assert stored.numbers("support") == [1, 2, 10] and stored.numbers("support", "") == [1, 2, 4, 10]
    assert stored.numbers("nothing") == [] and Stored(tmp_path / "none").names() == []
    with pytest.raises(UserError, match="the version is gone"):
        stored.read("support", 4)
