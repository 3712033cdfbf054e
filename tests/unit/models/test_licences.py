"""Under which licences an artifact may be used: as told by cards, licence files and recipes, down the line."""

from __future__ import annotations

from pathlib import Path

import pytest

from fettle.artifact import new_artifact
from fettle.models.base import BUNDLED
from fettle.models.licences import card_licences, inherited, licences_beside, licences_of


def made(path: Path, **told: tuple[str, ...]) -> Path:
    with new_artifact(path, kind="model", name=path.name, fingerprint="f", **told):
        pass
    return path


@pytest.mark.parametrize(
    ("card", "licences"),
    [
        ("---\nlicense: apache-2.0\nlanguage: en\n---\n# tiny\n", ("apache-2.0",)),
        ("---\nlicense: [mit, cc-by-4.0]\n---\n", ("mit", "cc-by-4.0")),
        ("---\nlicense: other\nlicense_name: llama3.1\n---\n", ("llama3.1",)),
        ("---\nlicense: other\nlicense_link: https://example.org/terms\n---\n", ("https://example.org/terms",)),
        ("---\nlanguage: en\n---\nlicense: mit\n", ()),
        ("# A card for people\nlicense: mit\n", ()),
        ("---\nlicense: [\n---\n", ()),
        ("---\nlicense:\n  mit: yes\n---\n", ()),
    ],
)
def test_a_card_tells_its_licence_in_its_head(tmp_path: Path, card: str, licences: tuple[str, ...]) -> None:
    (tmp_path / "README.md").write_text(card)
    assert card_licences(tmp_path / "README.md") == licences


@pytest.mark.parametrize(
    ("file", "text", "licences"),
    [
        ("LICENSE", "\n   Apache License\n   Version 2.0, January 2004\n", ("apache-2.0",)),
        ("LICENSE.txt", "LLAMA COMMUNITY LICENSE\nVersion Release Date: July\n", ("LLAMA COMMUNITY LICENSE",)),
        ("LICENSE.md", "# MIT License\n\nCopyright", ("mit",)),
        ("COPYING", "GNU GENERAL PUBLIC LICENSE\nVersion 3, 29 June 2007\n", ("GNU GENERAL PUBLIC LICENSE Version 3",)),
        ("config.json", '{"license": "mit"}', ("mit",)),
        ("LICENSE", "", ()),
    ],
)
def test_without_a_card_its_licence_file_is_told_by_its_heading(
    tmp_path: Path, file: str, text: str, licences: tuple[str, ...]
) -> None:
    (tmp_path / file).write_text(text)
    assert licences_of(tmp_path) == licences


def test_a_data_sets_licence_is_in_the_card_of_its_folder_or_beside_a_file(tmp_path: Path) -> None:
    files = [tmp_path / "set" / "train" / "a.jsonl", tmp_path / "set" / "test" / "b.jsonl"]
    for file in files:
        file.parent.mkdir(parents=True)
    assert licences_beside(files) == licences_beside([]) == ()
    (tmp_path / "README.md").write_text("---\nlicense: odbl\n---\n")
    assert licences_beside(files) == ("odbl",) and licences_beside(files[:1]) == ()
    (files[1].parent / "README.md").write_text("---\nlicense: mit\n---\n")
    assert licences_beside(files) == ("mit",)
    (tmp_path / "set" / "README.md").write_text("---\nlicense: cc0-1.0\n---\n")
    assert licences_beside(files) == ("cc0-1.0",)


def test_licences_are_inherited_with_what_none_is_told_of(tmp_path: Path) -> None:
    first = made(tmp_path / "domain", **inherited([BUNDLED["tiny"]], [("corpus.txt", ()), ("chat.jsonl", ("mit",))]))
    merged = made(tmp_path / "merged", **inherited([first, made(tmp_path / "teacher", licences=("cc-by-4.0",))]))
    assert inherited([merged]) == {"licences": ("apache-2.0", "cc-by-4.0", "mit"), "unlicensed": ("corpus.txt",)}


def test_of_an_artifact_that_tells_nothing_nothing_is_taken_for_granted(tmp_path: Path) -> None:
    assert inherited([made(tmp_path / "old")]) == {"licences": (), "unlicensed": ("old",)}
