"""Rows of a .jsonl file: one strict JSON object a line, read fast, and slowly only where something may be wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from fettle.data.files import decode, read_blocks
from fettle.data.strict_json import StrictDecoder, bad_json, count_keys, skip_space, type_name
from fettle.errors import UserError
from fettle.recipe.data import DataSpec

_EXPECTED = 'one JSON object a line, like {"text": "…"}'
_LIST_START = re.compile(rb"\s*\[\s*(\{|$)")
_KEY_END = re.compile(rb'"[ \t\r\n]*:')
_decode = msgspec.json.Decoder().decode
_QUOTE, _COLON, _BACKSLASH, _LAST_SPACE = b'":\\ '


def read_jsonl(file: Path, spec: DataSpec) -> Iterator[tuple[int, dict[str, Any] | UserError]]:
    """(line, the object in it or what is wrong with it) for each line that is not blank. After a bad line the next
    follows. Raises UserError for what ends the file."""
    number = offset = 0
    for lines in read_blocks(file, spec.encoding):
        if number == 0:
            _refuse(file, lines)
        block = b"".join(lines)
        if (objects := _objects(lines, block)) is not None:
            yield from enumerate(objects, number + 1)
        else:
            place = offset
            for line, raw in enumerate(lines, number + 1):
                if (found := read_line(raw, file, line, place)) is not None:
                    yield line, found
                place += len(raw)
        number += len(lines)
        offset += len(block)


def read_line(raw: bytes, file: Path, line: int, offset: int) -> dict[str, Any] | UserError | None:
    """The object of one line, or what is wrong with it; None for a blank line. offset: of its first byte."""
    try:
        value = _decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        if not raw.strip(b" \t\r\n"):
            return None
    else:
        if type(value) is dict and len(_KEY_END.findall(raw)) == count_keys([value]):
            return value
    return _read_carefully(raw, file, line, offset)


def refuse_other_kinds(file: Path, spec: DataSpec) -> None:
    """Raises UserError where the beginning of the file shows that it has not one object a line."""
    for lines in read_blocks(file, spec.encoding):
        _refuse(file, lines)
        return


def _objects(lines: list[bytes], block: bytes) -> list[dict[str, Any]] | None:
    """The lines' objects; None unless there is one in each and none has a key twice."""
    try:
        values = list(map(_decode, lines))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if set(map(type, values)) != {dict} or count_keys(values) != _count_keys_written(block):
        return None
    return values


def _count_keys_written(block: bytes) -> int:
    """How many keys stand in the lines, or more: never fewer. msgspec keeps the last of two keys and says nothing, so
    only where as many keys are left as were written, none was there twice.

    A key is a closing quote, spaces, a colon. A quote behind one backslash is inside a string; behind two or more it
    may close one, and is counted. Whole blocks through numpy take 0.4 ns a byte, a search line by line 1.2 (2026-11).
    """
    marks = np.frombuffer(block, np.uint8)
    if len(marks) < 4:  # `{"":1}` has its colon at the fourth place
        return 0
    is_colon, before, two_before = marks[3:] == _COLON, marks[2:-1], marks[1:-2]
    is_quoted = (before == _QUOTE) & is_colon
    count = np.count_nonzero(is_quoted)
    count -= np.count_nonzero(is_quoted & (two_before == _BACKSLASH) & (marks[:-3] != _BACKSLASH))
    is_spaced = (before <= _LAST_SPACE) & is_colon
    if is_spaced.any():
        count += np.count_nonzero(is_spaced & ((two_before == _QUOTE) | (two_before <= _LAST_SPACE)))
    return int(count)


def _read_carefully(raw: bytes, file: Path, line: int, offset: int) -> dict[str, Any] | UserError | None:
    try:
        text = decode(raw, file, line, offset)
    except UserError as error:
        return error
    start = skip_space(text, 0)
    if start == len(text):
        return None
    try:
        value, end, problem = StrictDecoder().value_at(text, start)
        if skip_space(text, end) != len(text):
            raise json.JSONDecodeError("Extra data", text, end)
    except (ValueError, RecursionError) as error:
        return bad_json(error, text, file, line, is_whole=False)
    if problem:
        return UserError(problem, file=file, line=line)
    if isinstance(value, dict):
        return value
    return UserError(f"{type_name(value)}, not an object", file=file, line=line, expected=_EXPECTED)


def _refuse(file: Path, lines: list[bytes]) -> None:
    """Raises UserError where the first line shows that objects do not stand one a line."""
    line, raw = next(((line, raw) for line, raw in enumerate(lines, 1) if raw.strip(b" \t\r\n\xef\xbb\xbf")), (1, b""))
    if _LIST_START.match(raw):
        got, fix = "a list, not an object", "if the file is one list of objects, rename it to .json"
    elif raw.strip() == b"{":
        got, fix = "an object that goes over several lines", "write each on one line: jq -c . OLD > NEW"
    else:
        return
    raise UserError(got, file=file, line=line, expected=_EXPECTED, fix=fix)
