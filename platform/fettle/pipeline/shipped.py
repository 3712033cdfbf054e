"""What travels to a cluster with a job: the files that its words and its recipe name, and no others.

Ray would carry a whole folder, without what `.gitignore` names, such as data. Here each file is meant: a recipe, its
data, templates, functions and folders at relative paths. They are laid out as they lie here, below the folder that all
of them share, so that every relative path means over there what it means here. Absolute paths, addresses and hub ids
are the cluster's own to find.
"""

from __future__ import annotations

import glob
import os
import re
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from fettle.data.registry import split_name
from fettle.data.remote import hub_id, is_address, local_path
from fettle.data.sources import open_source
from fettle.errors import DoesNotFit, UserError
from fettle.recipe import Recipe
from fettle.recipe.data import DataSpec
from fettle.recipe.spec import Spec

LIMIT = 100 << 20
"""Bytes, unpacked: the job server takes no larger package, packed (DASHBOARD_CLIENT_MAX_SIZE in Ray's ray_constants.py;
its documentation says 512 MiB, which is the head's own limit behind it)."""
_NAMED = 5
# Keys of a recipe that may name a file or a folder.
_PATHS = {"base", "chat_template", "from_", "teacher", "critic", "stage", "model", "against", "config", "tokenizer"}
_PATHS |= {"tasks"}
_FUNCTIONS = {"function", "environment"}
# Of a folder that is named, what nobody means.
_NEVER = {"__pycache__", ".git", ".venv", ".mypy_cache", ".ruff_cache"}


def files_of_recipe(recipe: Recipe) -> list[Path]:
    """The recipe's file, and all that it names by relative paths and that is here.

    Raises UserError, at its line, for data that is not here, and for places that would go with the job's own folder.
    """
    _check_kept(recipe)
    found = [recipe.file.absolute()]
    for field, spec in _data(recipe, ""):
        if _is_ours(spec.path):
            found += _sources(recipe, field, spec)
    for key, text in _texts(recipe):
        named = text.rpartition(":")[0] if key in _FUNCTIONS else text
        if key not in _PATHS | _FUNCTIONS or not named or (key, named) == ("against", "base"):
            continue
        if _is_ours(named) and not _is_stage(recipe, named):
            found += files_below(recipe.resolve(named))
            if key == "tasks" and recipe.resolve(named).is_file():  # its data lies beside it
                found += [file for file in recipe.resolve(named).parent.iterdir() if file.is_file()]
    return found


def files_of_words(words: Sequence[str]) -> list[Path]:
    """What words of a command line name by relative paths: `FILE`, `NAME=FOLDER`, a glob, or YAML with such in it."""
    found: list[Path] = []
    for word in words:
        for text in {word, word.partition("=")[2], *_in_yaml(word)}:
            path = (split_name(text) or (text, ""))[0]
            if path and _is_ours(path):
                hits = [Path(hit) for hit in glob.glob(path, recursive=True)] if glob.has_magic(path) else [Path(path)]
                found += [file for hit in hits for file in files_below(hit.absolute())]
    return found


def files_below(path: Path) -> list[Path]:
    """The file, or the files of the folder; none where nothing is there."""
    path = Path(os.path.abspath(path))
    if path.is_file():
        return [path]
    found: list[Path] = []
    seen: set[str] = set()
    for folder, folders, names in os.walk(path, followlinks=True):
        is_new = (real := os.path.realpath(folder)) not in seen  # a link may lead to a folder above it
        seen.add(real)
        folders[:] = sorted(one for one in folders if one not in _NEVER) if is_new else []
        found += [file for name in sorted(names) if is_new and (file := Path(folder, name)).is_file()]
    return found


def pack(files: Sequence[Path], here: Path, package: Path) -> Path:
    """Writes a zip of the files as they lie below the folder that they and `here` share; returns where `here` is in it.

    The same files give the same bytes: Ray carries a package once. Raises DoesNotFit, with the largest by name, where
    they are more than LIMIT.
    """
    several = sorted(set(files))
    sizes = {file: file.stat().st_size for file in several}
    if (total := sum(sizes.values())) > LIMIT:
        largest = sorted(several, key=lambda file: -sizes[file])[:_NAMED]
        told = ", ".join(f"{_near(file, here)} ({_mib(sizes[file])})" for file in largest)
        raise DoesNotFit(
            f"{len(several):,} files of {_mib(total)} are too much to travel with a job; the largest: {told}",
            expected=f"at most {_mib(LIMIT)}",
            fix="put these where all nodes see them (a shared disk, s3://…), and name them by an absolute path or an"
            " address",
        )
    root = Path(os.path.commonpath([here, *(file.parent for file in several)]))
    inside = here.relative_to(root)
    with zipfile.ZipFile(package, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed:
        if inside != Path():
            packed.writestr(zipfile.ZipInfo(f"{inside}/"), b"")
        for file in several:
            entry = zipfile.ZipInfo(str(file.relative_to(root)))  # without its time
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            with open(file, "rb") as source, packed.open(entry, "w") as target:
                while chunk := source.read(1 << 20):
                    target.write(chunk)
    return inside


def _is_ours(path: str) -> bool:
    """Whether a path is relative, and so of this machine."""
    return not is_address(path) and not Path(local_path(path)).expanduser().is_absolute()


def _is_stage(recipe: Recipe, name: str) -> bool:
    """Whether it is an earlier stage, or the bundled model, whatever is called so here."""
    return name == "tiny" or any(stage.name == name for stage in recipe.stages)


def _sources(recipe: Recipe, field: str, spec: DataSpec) -> list[Path]:
    """The files of a source that lies here; none of a data set on the hub, or of an earlier stage that is replayed."""
    named = split_name(spec.path)
    path = recipe.resolve((named or (spec.path, ""))[0])
    if not path.exists() and (_is_stage(recipe, spec.path) or hub_id(spec.path) is not None):
        return []
    files = list(open_source(spec, recipe.resolve, **recipe.where(field)).files)
    return [*files, path] if named else files


def _data(value: Any, at: str) -> Iterator[tuple[str, DataSpec]]:
    """(dotted field, source) of every one in a recipe, or in a part of it."""
    if isinstance(value, DataSpec):
        yield at, value
    elif isinstance(value, Spec):
        for key in type(value).model_fields:
            yield from _data(getattr(value, key), f"{at}.{key}".lstrip("."))
    elif isinstance(value, tuple):
        for number, one in enumerate(value):
            yield from _data(one, at if isinstance(one, DataSpec) else f"{at}.{getattr(one, 'name', number)}")


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """(key, text) of every text in a recipe, or in a part of it, but its data."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, Spec) and not isinstance(value, DataSpec):
        for name in type(value).model_fields:
            yield from _texts(getattr(value, name), name)
    elif isinstance(value, tuple):
        for one in value:
            yield from _texts(one, key)


def _check_kept(recipe: Recipe) -> None:
    """Raises UserError where results would lie in the job's own folder, which goes when the job does."""
    kept = {"publish.registry": recipe.publish.registry if recipe.publish else None}
    storage, tracking = recipe.storage, recipe.tracking
    kept["storage"] = storage.folder if storage is not None and storage.bucket is None else None
    kept["tracking"] = tracking.uri if tracking != "off" else None
    for field, path in kept.items():
        if path is not None and _is_ours(path):
            raise UserError(
                f"{path} would lie in the job's own folder, which goes when the job does",
                **recipe.where(field),
                expected="an absolute path that the cluster's nodes see, or an address",
                fix=f"--set {field}=/shared/{Path(path).name}",
            )


def _in_yaml(word: str) -> set[str]:
    """Texts within `{kind: …, data: FILE}` or `[FILE, FILE]`."""
    if not re.search(r"[{\[]", word):
        return set()
    try:
        tree = yaml.safe_load(word[re.search(r"[{\[]", word).start() :])  # type: ignore[union-attr]
    except yaml.YAMLError:
        return set()
    found, left = set(), [tree]
    while left:
        one = left.pop()
        if isinstance(one, str):
            found.add(one)
        left += one.values() if isinstance(one, dict) else one if isinstance(one, list) else []
    return found


def _near(file: Path, here: Path) -> str:
    return str(file.relative_to(here)) if file.is_relative_to(here) else str(file)


def _mib(size: int) -> str:
    return f"{size / (1 << 20):,.0f} MiB" if size >= 10 << 20 else f"{size / (1 << 20):,.1f} MiB"
