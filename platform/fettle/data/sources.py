"""Files behind a recipe's path: a file, a glob or a folder."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fettle.data.files import SUFFIXES, suffix_of
from fettle.data.formats import Format, read_file
from fettle.data.record import Record
from fettle.data.rows import Complaint, complain
from fettle.errors import UserError, did_you_mean

if TYPE_CHECKING:  # this file is the standard library's alone
    from fettle.recipe.data import DataSpec

Resolve = Callable[[str], Path]
KNOWN = f"{', '.join(SUFFIXES)}, each also with .gz"


def find_files(path: str | Path, **where: Any) -> list[Path]:
    """The data files a path means, sorted. A folder is searched to the bottom; files of other kinds in it, and hidden
    ones, are passed over (`passed_over` names them).

    where: file, line, field of the UserError raised when there is none, or when a file named one by one is unreadable.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        found = sorted(file for file in _visible(path) if suffix_of(file))
        if not found:
            raise _error("no data file in this folder", path, where, expected=KNOWN)
        return found
    if path.exists():
        found = [path]
    elif glob.has_magic(str(path)):
        found = sorted(Path(hit) for hit in glob.glob(str(path), recursive=True) if Path(hit).is_file())
        if not found:
            raise _error("no file matches", path, where)
    else:
        siblings = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
        raise _error(f"no such file or folder{did_you_mean(path.name, siblings)}", path, where)
    for file in found:
        if not suffix_of(file):
            ending = "".join(file.suffixes[-2:]) if file.suffix == ".gz" else file.suffix
            raise _error(f"unknown suffix '{ending}'", file, where, expected=KNOWN, fix="rename or convert the file")
    return found


def passed_over(path: str | Path) -> list[Path]:
    """Files in a folder that `find_files` leaves out because of their suffix; none for a file or a glob."""
    path = Path(path).expanduser()
    return sorted(file for file in _visible(path) if not suffix_of(file)) if path.is_dir() else []


def read_source(spec: DataSpec, resolve: Resolve, on_error: Complaint = complain, **where: Any) -> Iterator[Record]:
    """Every record of a source, file after file. resolve: a recipe's path to one on disk (`Recipe.resolve`)."""
    for file in find_files(resolve(spec.path), **where):
        yield from open_file(file, spec, on_error)[1]


def open_file(file: Path, spec: DataSpec, on_error: Complaint = complain) -> tuple[Format, Iterator[Record]]:
    """(what the file's format is, its records), read as `spec` says."""
    return read_file(file, split=spec.split, on_error=on_error)


def _visible(folder: Path) -> Iterator[Path]:
    for file in folder.rglob("*"):
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(folder).parts):
            yield file


def _error(got: str, path: Path, where: dict[str, Any], **more: Any) -> UserError:
    """At the recipe's line where there is one, else at the path itself."""
    return UserError(f"{path}: {got}", **where, **more) if where else UserError(got, file=path, **more)
