"""Paths to files: what is accepted, and the one clear message for what is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from fettle.data.sources import open_source, read_source
from fettle.errors import UserError
from fettle.recipe import load_recipe
from fettle.recipe.data import DataSpec


def message(call) -> str:
    with pytest.raises(UserError) as caught:
        call()
    return str(caught.value)


def opened(path: Path, **where):
    return open_source(DataSpec(path=str(path)), Path, **where)


def test_a_folder_means_its_data_files_to_the_bottom_and_tells_what_it_passes_over(write):
    folder = write("b.jsonl", [{"text": "b"}]).parent
    write("deep/a.txt.gz", "a")
    write("README.md", "not data")
    write(".hidden.jsonl", "not data")
    assert [file.name for file in opened(folder).files] == ["b.jsonl", "a.txt.gz"]
    assert [file.name for file in opened(folder).passed_over] == ["README.md"]


def test_a_glob_means_the_files_it_matches_in_the_order_of_their_names(write):
    folder = write("2.txt", "two").parent
    write("1.txt", "one")
    assert [file.name for file in opened(folder / "*.txt").files] == ["1.txt", "2.txt"]


def test_a_path_may_begin_at_home(write, monkeypatch):
    monkeypatch.setenv("HOME", str(write("a.txt", "x").parent))
    assert [file.name for path in ("~/a.txt", "~/*.txt") for file in opened(path).files] == ["a.txt", "a.txt"]


def test_a_file_whose_name_looks_like_a_glob_is_a_file(write):
    assert opened(write("data[1].txt", "x")).files[0].name == "data[1].txt"


def test_a_link_in_a_recipe_has_the_name_it_has_and_not_its_targets(write):
    (write("blobs/0b3f", "x").parents[1] / "a.txt").symlink_to("blobs/0b3f")  # as the hub's and DVC's caches lie
    recipe = load_recipe(write("recipe.yaml", "name: a\nstages: [{name: b, kind: pretrain, data: a.txt}]"))
    assert [file.name for file in open_source(recipe.stages[0].data[0], recipe.resolve).files] == ["a.txt"]


def test_an_empty_path_is_not_the_recipes_own_folder():
    with pytest.raises(ValueError, match="at least 1 character"):
        DataSpec(path="")


def test_settings_that_say_nothing_about_any_file_are_refused(write):
    told = message(lambda: open_source(DataSpec(path=str(write("a.csv", "text\nx\n")), split="lines"), Path))
    assert "split: lines is for .txt files, and here is none" in told
    told = message(lambda: open_source(DataSpec(path=str(write("a.parquet", b"PAR1")), encoding="latin-1"), Path))
    assert "encoding: latin-1 is for text files, and here is none" in told


def test_a_missing_file_is_told_with_the_nearest_name(write):
    file = write("train.jsonl", [{"text": "x"}])
    told = message(lambda: opened(file.with_name("trian.jsonl")))
    assert told == f"{file.with_name('trian.jsonl')}: no such file or folder (did you mean 'train.jsonl'?)"


def test_a_missing_file_of_a_recipe_is_told_at_the_recipes_line(tmp_path):
    where = {"file": "recipe.yaml", "line": 7, "field": "stages.sft.data"}
    told = message(lambda: opened(tmp_path / "none.txt", **where))
    assert told.startswith(f"recipe.yaml:7: stages.sft.data: {tmp_path / 'none.txt'}: no such file")


def test_a_glob_that_matches_nothing_is_an_error(tmp_path):
    assert "no file matches" in message(lambda: opened(tmp_path / "*.jsonl"))


def test_an_empty_folder_is_an_error_that_lists_the_suffixes(tmp_path):
    told = message(lambda: opened(tmp_path))
    assert "no data file in this folder" in told and ".jsonl, .json, .txt" in told and "each also with .gz" in told


def test_an_unknown_suffix_is_an_error_that_lists_the_known_ones(write):
    told = message(lambda: opened(write("data.docx", "x")))
    assert "unknown suffix '.docx'" in told and ".jsonl, .json, .txt" in told


def test_a_source_reads_its_files_one_after_the_other(write):
    folder = write("1.jsonl", [{"text": "a"}, {"text": "b"}]).parent
    write("2.txt", "c")
    read = read_source(open_source(DataSpec(path="*.*"), lambda path: folder / path))
    assert [record.text for record in read] == ["a", "b", "c"]
