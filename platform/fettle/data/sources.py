"""Files behind a recipe's path: a file, a glob or a folder."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from fettle.data.files import SUFFIXES, suffix_of
from fettle.data.formats import read_file
from fettle.data.record import Record
from fettle.data.rows import Complaint, complain
from fettle.errors import UserError, did_you_mean
from fettle.recipe.data import DataSpec

Resolve = Callable[[str], Path]
KNOWN = f"{', '.join(SUFFIXES)}, each also with .gz"


def find_files(path: str | Path, **where: Any) -> list[Path]:
    """The data files a path means, sorted. A folder is searched to the bottom; files of other kinds in it, and hidden
    ones, are passed over.

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


@dataclass(frozen=True)
class OpenSource:
    """What a recipe's source means on this machine. spec: as the recipe has it, with what a registry's entry adds.

    passed_over: files in a folder that are not read because of their suffix.
    """

    spec: DataSpec
    files: tuple[Path, ...]
    passed_over: tuple[Path, ...] = ()


def open_source(spec: DataSpec, resolve: Resolve, **where: Any) -> OpenSource:
    """The source's files. resolve: a recipe's path to one on disk (`Recipe.resolve`).

    where: file, line, field (of a recipe) of the UserError raised when there is none.
    """
    path = resolve(spec.path)
    left = sorted(file for file in _visible(path) if not suffix_of(file)) if path.is_dir() else []
    return OpenSource(spec, tuple(find_files(path, **where)), tuple(left))


def read_source(source: OpenSource, on_error: Complaint = complain) -> Iterator[Record]:
    """Every record of a source, file after file, up to its limit."""
    records = chain.from_iterable(read_file(file, source.spec, on_error)[1] for file in source.files)
    return islice(records, source.spec.limit)


def _visible(folder: Path) -> Iterator[Path]:
    for file in folder.rglob("*"):
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(folder).parts):
            yield file


def _error(got: str, path: Path, where: dict[str, Any], **more: Any) -> UserError:
    """At the recipe's line where there is one, else at the path itself."""
    return UserError(f"{path}: {got}", **where, **more) if where else UserError(got, file=path, **more)
