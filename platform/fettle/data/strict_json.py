"""JSON as its standard has it, no key twice and no half characters; and what is wrong with text that is not so."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from fettle.errors import UserError

_SPACE = re.compile(r"[ \t\r\n]*")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_HALF = re.compile("[\ud800-\udfff]")


class StrictDecoder:
    """Reads values out of a text, one at a time. Slow: for .json files, and to say what is wrong with a line."""

    def __init__(self) -> None:
        self._problem: str | None = None
        decoder = json.JSONDecoder(
            object_pairs_hook=self._object, parse_constant=self._constant, parse_float=self._float
        )
        self._decode = decoder.raw_decode

    def value_at(self, text: str, place: int) -> tuple[Any, int, str | None]:
        """(the value that begins at `place`, the place after it, what is wrong with it although its end is known).

        Raises ValueError or RecursionError, for `bad_json`, where the end is not known.
        """
        self._problem = None
        value, end = self._decode(text, place)
        if self._problem is None and _SURROGATE.search(text, place, end) and (half := next(_halves(value), None)):
            self._problem = f"half of a surrogate pair (\\u{ord(half):04x}), which is no character"
        return value, end, self._problem

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            keys = [key for key, _ in pairs]
            twin = next(key for place, key in enumerate(keys) if key in keys[:place])
            self._problem = f"the key '{twin}' is there twice"
        return found

    def _constant(self, name: str) -> None:
        self._problem = f"not valid JSON: {name} is not a JSON value"

    def _float(self, digits: str) -> float:
        number = float(digits)
        if math.isinf(number):
            self._problem = f"the number {digits} is too large"
        return number


def bad_json(error: ValueError | RecursionError, text: str, file: Path, line: int, *, is_whole: bool) -> UserError:
    """The mistake with its surroundings. line: of the record, where the text is not the whole file."""
    if isinstance(error, RecursionError):
        return UserError("nested too deeply to be read", file=file, line=line)
    if not isinstance(error, json.JSONDecodeError):
        return UserError(f"not valid JSON: {error}", file=file, line=line)
    here = error.lineno if is_whole else line
    end = len(text.rstrip())
    if error.pos >= end or error.msg.startswith("Unterminated string"):
        tail = text[max(0, end - 30) : end]
        what = "the file" if is_whole else "the line"
        fix = "copy or download the file again" if is_whole or not text.endswith("\n") else "repair or remove the line"
        here = line_of(text, end) if is_whole else line
        return UserError(f"{what} is cut off; it ends with `{tail}`", file=file, line=here, fix=fix)
    near = text[max(0, error.pos - 20) : error.pos] + "⟨here⟩" + text[error.pos : error.pos + 20].rstrip()
    reason = error.msg[0].lower() + error.msg[1:]
    got = f"not valid JSON at column {error.colno}: {reason}, near `{near}`"
    return UserError(got, file=file, line=here, expected="strict JSON")


def skip_space(text: str, place: int) -> int:
    """The place of the first character from `place` on that is no space."""
    match = _SPACE.match(text, place)
    return match.end() if match else place


def line_of(text: str, place: int) -> int:
    """The line, from 1, that a place of the text is in."""
    return 1 + text.count("\n", 0, place)


def count_keys(values: Iterable[Any]) -> int:
    """How many keys all objects in the values have, also those inside others."""
    count = 0
    levels = [values]
    for level in levels:
        for value in level:
            kind = type(value)
            if kind is dict:
                count += len(value)
                levels.append(value.values())
            elif kind is list:
                levels.append(value)
    return count


def type_name(value: object) -> str:
    """A value's type in plain words."""
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null", bytes: "bytes"}
    return names.get(type(value), "a number")


def _halves(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield from _HALF.findall(value)
    elif isinstance(value, list):
        for inner in value:
            yield from _halves(inner)
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _halves(key)
            yield from _halves(inner)
