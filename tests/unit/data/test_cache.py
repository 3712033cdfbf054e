"""The cache of encoded data: whole or absent, shared by links, and free to be deleted."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fettle.data import cache
from fettle.data.cache import is_whole, new_folder, shared_folder
from fettle.errors import UserError
from fettle.output import cache_folder

MONTH = 31 * 24 * 3600


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


class Filling:
    """Writes a text, and counts how often."""

    def __init__(self, text: str = "encoded") -> None:
        self.text, self.times = text, 0

    def __call__(self, folder: Path) -> None:
        self.times += 1
        (folder / "ids.bin").write_text(self.text)


def make_old(entry: Path, seconds: float = MONTH) -> None:
    for path in (*entry.iterdir(), entry):
        os.utime(path, (time.time() - seconds,) * 2)


def test_an_entry_is_made_once_for_all_runs(tmp_path):
    fill = Filling()
    folders = [shared_folder("a", tmp_path / run, fill) for run in ("one", "two", "one")]
    assert fill.times == 1 and {(folder / "ids.bin").read_text() for folder in folders} == {"encoded"}
    assert (folders[0] / "ids.bin").samefile(folders[1] / "ids.bin")


def test_a_run_keeps_its_data_when_the_cache_is_deleted_and_needs_it_no_more(tmp_path):
    fill = Filling()
    folder = shared_folder("a", tmp_path / "run", fill)
    shutil.rmtree(cache_folder("tokens"))
    assert (shared_folder("a", tmp_path / "run", fill) / "ids.bin").read_text() == "encoded"
    assert is_whole(folder) and fill.times == 1


def test_the_cache_keeps_its_entry_when_a_run_is_deleted(tmp_path):
    fill = Filling()
    shutil.rmtree(shared_folder("a", tmp_path / "run", fill).parent)
    assert (shared_folder("a", tmp_path / "run", fill) / "ids.bin").read_text() == "encoded" and fill.times == 1


def test_on_another_file_system_files_are_copied(tmp_path, monkeypatch):
    def link(*paths: Path) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", link)
    folder = shared_folder("a", tmp_path / "run", Filling())
    assert is_whole(folder) and not (folder / "ids.bin").samefile(cache_folder("tokens") / "a" / "ids.bin")


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert (shared_folder("a", tmp_path / "run", Filling()) / "ids.bin").read_text() == "encoded"


@pytest.mark.parametrize("tear", [lambda file: file.write_text("enc"), Path.unlink])
def test_a_torn_entry_is_made_again(tmp_path, tear: Callable[[Path], object]):
    fill = Filling()
    shared_folder("a", tmp_path / "one", fill)
    tear(cache_folder("tokens") / "a" / "ids.bin")
    assert (shared_folder("a", tmp_path / "two", fill) / "ids.bin").read_text() == "encoded" and fill.times == 2


def test_a_folder_without_its_mark_is_no_entry(tmp_path):
    (cache_folder("tokens") / "a").mkdir(parents=True)
    assert (shared_folder("a", tmp_path / "run", Filling()) / "ids.bin").read_text() == "encoded"


def test_an_error_leaves_nothing_behind(tmp_path):
    def fill(folder: Path) -> None:
        (folder / "ids.bin").write_text("half")
        raise ValueError("broken record")

    with pytest.raises(ValueError, match="broken record"):
        shared_folder("a", tmp_path / "run", fill)
    assert os.listdir(cache_folder("tokens")) == [] and not (tmp_path / "run").exists()


def test_a_full_disk_is_told_with_what_to_do(tmp_path):
    def fill(folder: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(UserError, match="XDG_CACHE_HOME"):
        shared_folder("a", tmp_path / "run", fill)


def test_of_two_writers_the_first_one_wins_and_both_go_on(tmp_path):
    def fill(folder: Path) -> None:
        Filling("slower")(folder)
        shared_folder("a", tmp_path / "two", Filling("faster"))

    folders = shared_folder("a", tmp_path / "one", fill), tmp_path / "two" / "a"
    assert [(folder / "ids.bin").read_text() for folder in folders] == ["faster", "faster"]
    assert os.listdir(cache_folder("tokens")) == ["a"]


def test_an_entry_that_another_run_removes_while_it_is_taken_is_made_again(tmp_path, monkeypatch):
    fill = Filling()
    shared_folder("a", tmp_path / "one", fill)

    def link_too_late(file: Path, to: Path) -> None:
        monkeypatch.undo()
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        shutil.rmtree(cache_folder("tokens") / "a")
        raise FileNotFoundError(file)

    monkeypatch.setattr(os, "link", link_too_late)
    assert is_whole(shared_folder("a", tmp_path / "two", fill)) and fill.times == 2


def test_what_no_run_has_used_for_a_month_is_removed_when_something_new_is_written(tmp_path):
    for name in ("old", "used"):
        shared_folder(name, tmp_path / "one", Filling())
    for name in ("old", "used"):
        make_old(cache_folder("tokens") / name)
    shared_folder("used", tmp_path / "two", Filling())
    assert sorted(os.listdir(cache_folder("tokens"))) == ["old", "used"]
    shared_folder("new", tmp_path / "two", Filling())
    assert sorted(os.listdir(cache_folder("tokens"))) == ["new", "used"]
    assert is_whole(tmp_path / "one" / "old")


def test_what_a_killed_writer_left_is_removed_after_a_day_but_not_what_is_being_written(tmp_path):
    for name, age in (("left", 2 * 24 * 3600), ("going-on", 3600)):
        partial = cache_folder("tokens") / f".partial-{name}"
        partial.mkdir(parents=True)
        Filling()(partial)
        make_old(partial, age)
    os.utime(cache_folder("tokens") / ".partial-going-on", (0, 0))  # its file has grown since
    shared_folder("new", tmp_path / "run", Filling())
    assert sorted(os.listdir(cache_folder("tokens"))) == [".partial-going-on", "new"]


def test_a_folder_that_is_there_already_stays_as_it_is(tmp_path):
    for text in ("first", "second"):
        with new_folder(tmp_path / "set") as partial:
            Filling(text)(partial)
    assert (tmp_path / "set" / "ids.bin").read_text() == "first" and os.listdir(tmp_path) == ["set"]


def test_the_cache_lies_in_the_users_cache_folder(monkeypatch):
    assert cache_folder("tokens").parts[-3:] == ("cache", "fettle", "tokens")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(cache.Path, "home", lambda: Path("/home/ada"))
    assert cache_folder("tokens") == Path("/home/ada/.cache/fettle/tokens")
