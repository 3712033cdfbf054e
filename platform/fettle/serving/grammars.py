"""What a request may hold of schemas, expressions and grammars that its answer is to follow.

Compiling them takes the one thread that an engine on few cores has for it, and nothing ends it: a megabyte of choices
took minutes, a thousand patterns 20 s, 1,300 properties 4 s, with a vocabulary of 2,048 (xgrammar 0.2.8, 2026-11).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

FIELDS = ("response_format", "structured_outputs", "tools")
_AS_TEXT = ("json", "structural_tag")  # of structured_outputs: JSON within JSON is looked at too
_EXPRESSIONS = ("pattern", "regex", "whitespace_pattern")
_PASSED_OVER = ("description", "title", "examples", "default", "$comment")
_MOST_DEPTH, _MOST_PARTS, _MOST_ENTRIES = 32, 4096, 512
_MOST_CHARS = {"expressions": 2048, "grammar": 8192, "names and values": 16384}


def too_hard(wanted: dict[str, Any]) -> tuple[str, str] | None:
    """The first field that holds more than is taken, and what is wrong with it."""
    for field in FIELDS:
        value = wanted.get(field)
        if field == "structured_outputs":
            if value is not None and not isinstance(value, dict):  # vLLM fails over it
                return field, f"{field} is no object"
            try:
                value = _unfolded(value)
            except RecursionError:
                return field, f"{field} is nested too deeply"
        depth, parts = measured(value)
        if depth > _MOST_DEPTH:
            return field, f"{field} is nested {depth} deep; {_MOST_DEPTH} are taken at most"
        if parts > _MOST_PARTS:
            return field, f"{field} has {parts} parts; {_MOST_PARTS} are taken at most"
        if (why := _too_long(value)) is not None:
            return field, f"{field} has {why} are taken at most"
    return None


def measured(value: Any) -> tuple[int, int]:
    """How deep a JSON value is nested (a number is 0), and how many values it is of."""
    depth, parts, level = -1, 0, [value]
    while level:
        depth, parts = depth + 1, parts + len(level)
        level = [
            inner
            for one in level
            if isinstance(one, (list, dict))
            for inner in (one.values() if isinstance(one, dict) else one)
        ]
    return depth, parts


def _unfolded(value: dict[str, Any] | None) -> dict[str, Any] | None:
    """With schemas that are given as text in place of it. Raises RecursionError."""
    if value is None:
        return None
    told = dict(value)
    for name in _AS_TEXT:
        if isinstance(told.get(name), str):
            try:
                told[name] = json.loads(told[name])
            except ValueError:
                continue  # vLLM tells
    return told


def _too_long(value: Any) -> str | None:
    counts = dict.fromkeys(_MOST_CHARS, 0)
    for name, one in _named(None, value):
        if isinstance(one, dict):
            if len(one) > _MOST_ENTRIES:
                return f"an object of {len(one)} entries; {_MOST_ENTRIES}"
            names = sum(map(len, one))
            counts["expressions" if name == "patternProperties" else "names and values"] += names
        elif isinstance(one, str):
            kind = "expressions" if name in _EXPRESSIONS else name if name == "grammar" else "names and values"
            counts[kind] += len(one)
    for kind, count in counts.items():
        if count > _MOST_CHARS[kind]:
            return f"{count} characters of {kind}; {_MOST_CHARS[kind]}"
    return None


def _named(name: str | None, value: Any) -> Iterator[tuple[str | None, Any]]:
    """Every value that a compiler would follow, with the name that it goes by; the depth is known to be small."""
    yield name, value
    if isinstance(value, dict):
        for inner, one in value.items():
            if inner not in _PASSED_OVER or isinstance(one, dict):  # a property may be called so
                yield from _named(inner, one)
    elif isinstance(value, list):
        for one in value:
            yield from _named(name, one)
