"""The files of lm-evaluation-harness tasks, read without lm-evaluation-harness: what they name, and what would be code.

Its YAML has one tag of its own, `!function`, which imports a Python file and calls what is in it; data sets and metrics
of some kinds are code too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fettle.errors import UserError

READERS = ("json", "csv", "text", "parquet", "arrow")
"""Of data sets in files, by `datasets`: none of them runs what it reads, as its `pandas`, of pickles, would."""
_SUFFIXES = (".yaml", ".yml")
_PLAIN = ("str", "int", "float", "bool", "null", "seq", "map", "timestamp", "merge", "value")


@dataclass(frozen=True)
class TaskFiles:
    """tasks: of YAML, of which each is a task or a group; read: all that was read, with what they include; data: files
    that they name."""

    tasks: tuple[Path, ...]
    read: tuple[Path, ...]
    data: tuple[Path, ...]


def task_files(paths: Sequence[Path], *, allow_code: bool, **where: Any) -> TaskFiles:
    """What lies at the paths, of files and folders. Raises UserError, with file and line, for what is no YAML, for a
    data file that is not there, and unless `allow_code` for what would run code; with `where` for a path that is none.
    """
    found, reader = list[Path](), _Reader(allow_code)
    for path in paths:
        if not path.exists():
            raise UserError(f"no task at {path}", **where, expected="a task's YAML file, or a folder of them")
        files = [path] if path.is_file() else sorted(one for end in _SUFFIXES for one in path.rglob(f"*{end}"))
        tasks = [file for file in files if reader.task(file) or path.is_file()]
        if not tasks:
            raise UserError(f"no task in {path}", **where, expected=f"files that end in {' or '.join(_SUFFIXES)}")
        found += tasks
        if path.is_file() and reader.is_group(path):  # its tasks lie beside it
            for file in sorted(one for end in _SUFFIXES for one in path.parent.rglob(f"*{end}")):
                reader.task(file)
    return TaskFiles(tuple(dict.fromkeys(found)), tuple(reader.read), tuple(dict.fromkeys(reader.data)))


class _Reader:
    def __init__(self, allow_code: bool) -> None:
        self._allows = allow_code
        self.read: dict[Path, yaml.Node | None] = {}
        self.data: list[Path] = []

    def task(self, file: Path) -> bool:
        """Whether it is a task or a group, which may be only through what it includes."""
        return any(key in ("task", "group") for key, _ in self._entries(file, file.parent, ()))

    def is_group(self, file: Path) -> bool:
        """Whether it names tasks by their names."""
        found = dict(self._entries(file, file.parent, ()))
        return "group" in found or not isinstance(found.get("task"), yaml.ScalarNode)

    def _entries(self, file: Path, beside: Path, above: tuple[Path, ...]) -> list[tuple[str, yaml.Node]]:
        """The keys at the top of a file and of those that it includes. beside: where its data files are looked for."""
        if file in above:
            raise UserError(f"it includes itself, by way of {above[-1].name}", file=file)
        tree = self._tree(file)
        if not isinstance(tree, yaml.MappingNode):
            return []
        self._check(file, beside, tree)
        found = [(str(key.value), value) for key, value in tree.value]
        for value in [value for key, value in found if key == "include"]:
            for one in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                named = file.parent / str(one.value)
                if not named.is_file():
                    raise UserError(f"there is no {one.value}", file=file, line=_line(one), field="include")
                found += self._entries(named, beside, (*above, file))
        return found

    def _tree(self, file: Path) -> yaml.Node | None:
        if file not in self.read:
            try:
                self.read[file] = yaml.compose(file.read_text(encoding="utf-8"))
            except (yaml.YAMLError, UnicodeDecodeError) as error:
                line = getattr(getattr(error, "problem_mark", None), "line", None)
                told = getattr(error, "problem", None) or str(error)
                raise UserError(f"not YAML: {told}", file=file, line=line + 1 if line is not None else None) from None
        return self.read[file]

    def _check(self, file: Path, beside: Path, tree: yaml.Node) -> None:
        for key, value in _walk(tree):
            where: dict[str, Any] = {"file": file, "line": _line(value), "field": key}
            if value.tag.removeprefix("tag:yaml.org,2002:") not in _PLAIN and not self._allows:
                raise UserError(
                    f"{value.tag} {value.value}: this task would run code of its own",
                    **where,
                    fix="read it; allow_code: true lets it",
                )
            if key in ("hf_evaluate", "unsafe_code") and str(value.value).lower() != "false" and not self._allows:
                raise UserError("this metric or task is code", **where, fix="read it; allow_code: true lets it")
            if key == "dataset_path" and value.value not in READERS and not self._allows:
                raise UserError(
                    f"the data set {value.value} is not in files that could be read here",
                    **where,
                    expected=f"{', '.join(READERS)}, and its files in dataset_kwargs: {{data_files: …}}",
                    fix="download it and name its files; allow_code: true reads any data set that lies here",
                )
            if key in ("data_files", "data_dir"):
                for one in _scalars(value):
                    self.data += _there(str(one.value), beside, {**where, "line": _line(one)})


def _walk(node: yaml.Node, key: str = "") -> Iterator[tuple[str, yaml.Node]]:
    """Every node with the key it lies under, keys of mappings above lists too."""
    yield key, node
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            yield from _walk(value, str(name.value))
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _walk(value, key)


def _scalars(node: yaml.Node) -> list[yaml.Node]:
    return [one for _, one in _walk(node) if isinstance(one, yaml.ScalarNode)]


def _there(named: str, beside: Path, where: dict[str, Any]) -> list[Path]:
    """The files that a path or a pattern means."""
    if "://" in named:
        raise UserError(f"{named} is not here, and tasks are read offline", **where, fix="download it")
    path = beside / named
    if path.is_dir():
        return sorted(one for one in path.rglob("*") if one.is_file())
    found = [path] if path.is_file() else sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
    if not found:
        raise UserError(f"there is no {named} in {beside}", **where, expected="a data file beside the task")
    return found


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1
