"""YAML to plain values, remembering the line of every key."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from fettle.errors import UserError


class _Loader(yaml.SafeLoader):
    """SafeLoader that also reads 1e-5 as a number, which YAML 1.1 takes for text."""


_Loader.yaml_implicit_resolvers = {key: list(value) for key, value in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def parse_value(text: str, key: str, file: Path) -> Any:
    """The YAML value of a short text, as on the right of `--set key=VALUE` over the recipe in `file`."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise UserError(f"--set {key}={text}: not valid YAML: {problem}", file=file) from None


def read_yaml(file: Path) -> tuple[Any, dict[str, int]]:
    """The value in the file and the line of every dotted key. List items count by their `name`, else by position.

    Raises UserError: not there, not UTF-8, not YAML, the same key twice.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError("no such recipe", file=file, expected="the path of a YAML file") from None
    except IsADirectoryError:
        raise UserError("is a folder", file=file, expected="the path of a YAML file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"not UTF-8 (byte {error.start})", file=file, fix="save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror})", file=file) from None
    lines: dict[str, int] = {}
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            raise UserError("the file is empty", file=file, expected="a recipe: name, base, stages")
        return _value(loader, node, "", lines, file), lines
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise UserError(
            f"not valid YAML: {error.problem or error}", file=file, line=mark.line + 1 if mark else None
        ) from None
    except yaml.YAMLError as error:
        raise UserError(f"not valid YAML: {error}", file=file) from None


def _value(loader: _Loader, node: yaml.Node, path: str, lines: dict[str, int], file: Path) -> Any:
    if path:
        lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = loader.construct_object(key_node, deep=True)
            where = f"{path}.{key}" if path else str(key)
            line = key_node.start_mark.line + 1
            if not isinstance(key, str):
                raise UserError(
                    f"the key {key!r} is no text", file=file, line=line, field=path or None, fix="put it in quotes"
                )
            if key in found:
                raise UserError("this key stands twice", file=file, line=line, field=where, fix="keep one of them")
            lines[where] = line
            found[key] = _value(loader, value_node, where, lines, file)
        return found
    if isinstance(node, yaml.SequenceNode):
        return [_value(loader, item, f"{path}.{_label(item, i)}", lines, file) for i, item in enumerate(node.value)]
    return loader.construct_object(node, deep=True)


def _label(item: yaml.Node, position: int) -> str:
    if isinstance(item, yaml.MappingNode):
        for key, value in item.value:
            if key.value == "name" and isinstance(value, yaml.ScalarNode):
                return str(value.value)
    return str(position)
