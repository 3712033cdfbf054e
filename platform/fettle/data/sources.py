"""What a source of a recipe means: a file, a glob, a folder, a registry's entry, an address, or a data set's hub id."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from fettle.data import registry, remote
from fettle.data.files import KNOWN, suffix_of
from fettle.data.formats import read_file
from fettle.data.record import Record
from fettle.data.rows import Complaint, complain
from fettle.errors import UserError, did_you_mean
from fettle.recipe.data import DataSpec

Resolve = Callable[[str], Path]
# They lie beside data and describe it: LLaMA-Factory's registry, and what the hub's data sets had.
_NO_DATA = (registry.REGISTRY, "dataset_infos.json")


@dataclass(frozen=True)
class OpenSource:
    """What a recipe's source means on this machine. spec: as the recipe has it, with what a registry's entry adds.

    passed_over: files of a folder or glob that are not read: of other kinds, or descriptions of data.
    """

    spec: DataSpec
    files: tuple[Path, ...]
    passed_over: tuple[Path, ...] = ()


def open_source(spec: DataSpec, resolve: Resolve, **where: Any) -> OpenSource:
    """The source's files; what lies elsewhere is fetched. resolve: a recipe's path to one on disk (`Recipe.resolve`).

    where: file, line, field (of a recipe) of the UserError raised when there is none.
    """
    named = registry.split_name(spec.path)
    if named is None or (named[1] and not remote.is_address(spec.path) and resolve(spec.path).exists()):
        return _opened(spec, resolve, where)
    if remote.is_address(named[0]):
        file, beside = remote.fetch(named[0], **where)[0][0], os.path.dirname(named[0])
    else:
        (file,), _ = _found(resolve(remote.local_path(named[0])).absolute(), where)
        beside = str(file.parent)
    entry = registry.look_up(file, named[1], spec, **where)
    place = entry.path if "://" in entry.path else os.path.join(beside, entry.path)
    opened = _opened(entry.model_copy(update={"path": place}), Path, where)
    return OpenSource(entry.model_copy(update={"path": spec.path}), opened.files, opened.passed_over)


def read_source(source: OpenSource, on_error: Complaint = complain) -> Iterator[Record]:
    """Every record of a source, file after file, up to its limit."""
    records = chain.from_iterable(read_file(file, source.spec, on_error)[1] for file in source.files)
    return islice(records, source.spec.limit)


def _opened(spec: DataSpec, resolve: Resolve, where: dict[str, Any]) -> OpenSource:
    """Of anything but a registry's name."""
    path, is_address = remote.local_path(spec.path), remote.is_address(spec.path)
    name = remote.hub_id(path)
    if name is not None and (is_address or not resolve(path).exists()):
        said = "" if is_address else f"no such file or folder{_nearest(resolve(path))}, and "
        return OpenSource(spec, (remote.from_hub(name, spec.hub, said=said, **where),))
    if "hub" in spec.model_fields_set:
        raise _error("hub: says which part of a data set on the hub, and this is none", spec.path, where)
    found, left = remote.fetch(path, **where) if is_address else _found(resolve(path).expanduser(), where)
    _check_effects(spec, found, where)
    return OpenSource(spec, tuple(found), tuple(left))


def _check_effects(spec: DataSpec, files: list[Path], where: dict[str, Any]) -> None:
    """Raises UserError where a setting says nothing about any of the files."""
    suffixes = {suffix_of(file) for file in files}
    if spec.split == "lines" and ".txt" not in suffixes:
        raise _error("split: lines is for .txt files, and here is none", spec.path, where, fix="remove it")
    if spec.encoding != "utf-8" and suffixes == {".parquet"}:
        got = f"encoding: {spec.encoding} is for text files, and here is none"
        raise _error(got, spec.path, where, fix="remove it")


def _found(path: Path, where: dict[str, Any]) -> tuple[list[Path], list[Path]]:
    """(the data files a path means, sorted; what is passed over). A folder is searched to the bottom, hidden files and
    folders left out.

    where: file, line, field of the UserError raised when there is none, or when a file named one by one is unreadable.
    """
    if path.is_dir():
        visible = sorted(_visible(path))
        found = [file for file in visible if suffix_of(file) and file.name not in _NO_DATA]
        if not found:
            raise _error("no data file in this folder", path, where, expected=KNOWN)
        return found, [file for file in visible if not suffix_of(file) or file.name in _NO_DATA]
    left: list[Path] = []
    if path.exists():
        found = [path]
    elif glob.has_magic(str(path)):
        hits = sorted(Path(hit) for hit in glob.glob(str(path), recursive=True) if Path(hit).is_file())
        found, left = [file for file in hits if file.name not in _NO_DATA], [f for f in hits if f.name in _NO_DATA]
        if not found:
            raise _error("no file matches", path, where)
    else:
        raise _error(f"no such file or folder{_nearest(path)}", path, where)
    for file in found:
        if not suffix_of(file):
            ending = "".join(file.suffixes[-2:]) if file.suffix == ".gz" else file.suffix
            raise _error(f"unknown suffix '{ending}'", file, where, expected=KNOWN, fix="rename or convert the file")
    return found, left


def _nearest(path: Path) -> str:
    """A hint: the name beside the missing path that is nearest to it."""
    siblings = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
    return did_you_mean(path.name, siblings)


def _visible(folder: Path) -> Iterator[Path]:
    for file in folder.rglob("*"):
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(folder).parts):
            yield file


def _error(got: str, path: str | Path, where: dict[str, Any], **more: Any) -> UserError:
    """At the recipe's line where there is one, else at the path itself."""
    return UserError(f"{path}: {got}", **where, **more) if where else UserError(got, file=path, **more)
