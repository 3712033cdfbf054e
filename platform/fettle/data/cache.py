"""Folders that are whole or absent, and a cache of them that runs share by hard links."""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fettle.artifact import sync_folder
from fettle.errors import UserError
from fettle.output import cache_folder

_MARK = "whole.json"
_UNUSED_S = 30 * 24 * 3600
_TORN_S = 24 * 3600


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yields an empty folder to fill, which becomes `folder` on leaving without an error; else nothing is left behind.

    Where another writer was faster, what it wrote stays.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".partial-{uuid.uuid4().hex[:8]}")
    partial.mkdir()
    try:
        yield partial
        sizes = {file.name: file.stat().st_size for file in partial.iterdir()}
        (partial / _MARK).write_text(json.dumps(sizes), encoding="utf-8")
        sync_folder(partial)
        if not is_whole(folder):
            _discard(folder)
            os.rename(partial, folder)
    except OSError:
        if not is_whole(folder):
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def is_whole(folder: Path) -> bool:
    """Whether all that was written there is there, in full."""
    try:
        sizes = json.loads((folder / _MARK).read_text(encoding="utf-8"))
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, AttributeError):
        return False


def shared_folder(name: str, into: Path, fill: Callable[[Path], None]) -> Path:
    """The folder `into/name`, its files hard links into the cache (copies, on another file system), so that the cache
    may be deleted at any time. `fill` makes the cache's entry where there is none; `name` says all that decides what is
    in it. Where the cache cannot be written, `into/name` is filled itself.
    """
    target = into / name
    cache = cache_folder("tokens")
    while not is_whole(target):
        entry = cache / name
        if not is_whole(entry):
            if not _is_writable(cache):
                entry = target
            with _told_when_full(entry), new_folder(entry) as partial:
                fill(partial)
            if entry != target:
                _remove_old(cache)
        if entry != target:
            _link(entry, target)
    return target


def _is_writable(cache: Path) -> bool:
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(cache, os.W_OK | os.X_OK)


@contextmanager
def _told_when_full(entry: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        fix = "make room there, or set XDG_CACHE_HOME to a folder on another disk"
        raise UserError(f"no room left for encoded data ({error.strerror})", file=entry.parent, fix=fix) from None


def _link(entry: Path, target: Path) -> None:
    """Makes `target` of the entry's files, unless another run removes the entry meanwhile."""
    try:
        os.utime(entry)
        with new_folder(target) as partial:
            for file in entry.iterdir():
                if file.name != _MARK:  # the target gets one of its own
                    _link_file(file, partial / file.name)
    except FileNotFoundError:
        return


def _link_file(file: Path, to: Path) -> None:
    try:
        os.link(file, to)
    except FileNotFoundError:
        raise
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(file, to)


def _remove_old(cache: Path) -> None:
    """Removes entries that no run has used for 30 days, and what killed writers left behind a day ago."""
    now = time.time()
    for entry in cache.iterdir():
        is_partial = entry.name.startswith(".partial-")
        try:
            used = max(path.stat().st_mtime for path in (entry, *(entry.iterdir() if is_partial else ())))
        except (FileNotFoundError, NotADirectoryError):
            continue
        if now - used > (_TORN_S if is_partial else _UNUSED_S):
            _discard(entry)


def _discard(folder: Path) -> None:
    """Removes a folder, if it is there, at once for all who look."""
    gone = folder.with_name(f".partial-{uuid.uuid4().hex[:8]}")
    try:
        os.rename(folder, gone)
    except FileNotFoundError:
        return
    shutil.rmtree(gone, ignore_errors=True)
