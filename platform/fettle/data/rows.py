"""Rows of a file: JSON objects, each with the line it begins on. What is not strict JSON is an error with its place."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from msgspec import Struct

from fettle.data.files import decode, read_lines, read_text, suffix_of
from fettle.errors import UserError
from fettle.recipe.data import DataSpec

Complaint = Callable[[UserError], None]
_SPACE = re.compile(r"[ \t\r\n]*")


class Row(Struct, frozen=True):
    """One object of a file; line counts from 1."""

    file: Path
    line: int
    columns: dict[str, Any]


def complain(error: UserError) -> NoReturn:
    """What readers do with a bad row unless told otherwise: raise. Another function may collect it and return."""
    raise error


def read_rows(file: Path, spec: DataSpec | None = None, on_error: Complaint = complain) -> Iterator[Row]:
    """The rows of a .jsonl, .json or .txt file (or .gz of one), one at a time, read as `spec` says.

    After a bad line of a .jsonl file, and `on_error` returning, the next line follows; other mistakes end the file.
    """
    found = False

    def tell(error: UserError) -> None:
        nonlocal found
        found = True
        on_error(error)

    reader = {".jsonl": _jsonl_rows, ".json": _json_rows, ".txt": _txt_rows}[suffix_of(file)]
    try:
        for row in reader(file, spec or DataSpec(path=str(file)), tell):
            found = True
            yield row
    except UserError as error:
        tell(error)
    if not found:
        on_error(UserError("the file is empty", file=file, expected="at least one record"))


def read_places(file: Path, spec: DataSpec, *, window: int, on_error: Complaint = complain) -> Iterator[Row]:
    """Rows of a huge uncompressed .jsonl file: those in its first and last `window` bytes and in 14 places between.

    The lines in between are counted but not parsed, so that each row has its true line.
    """
    size, step = file.stat().st_size, max(1, (file.stat().st_size - 2 * window) // 15)
    places = [0, *(window + step * (i + 1) for i in range(14)), size - window]
    with open(file, "rb") as stream:
        number = 0
        for place in places:
            while (left := place - stream.tell()) > 0:
                number += stream.read(min(left, 1 << 24)).count(b"\n")
            if place:
                stream.readline()
                number += 1
            end = place + (window if place in (0, size - window) else window // 16)
            while stream.tell() < end and (raw := stream.readline()):
                number += 1
                text = decode(raw, file, number, stream.tell() - len(raw))
                yield from _parsed_line(file, number, text, on_error)


def type_name(value: object) -> str:
    """A JSON value's type in plain words."""
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _jsonl_rows(file: Path, spec: DataSpec, on_error: Complaint) -> Iterator[Row]:
    for number, text in read_lines(file):
        yield from _parsed_line(file, number, text, on_error)


def _parsed_line(file: Path, number: int, text: str, on_error: Complaint) -> Iterator[Row]:
    """The row of one line; none for a blank line or a bad one."""
    if not text.strip(" \t\r\n"):
        return
    try:
        value = _DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        on_error(_bad_json(error, text, file, number))
        return
    if isinstance(value, dict):
        yield Row(file, number, value)
    else:
        is_array = number == 1 and isinstance(value, list)
        on_error(
            UserError(
                f"{type_name(value)}, not an object",
                file=file,
                line=number,
                expected='one JSON object a line, like {"text": "…"}',
                fix="rename the file to .json if it is one list of objects" if is_array else None,
            )
        )


def _json_rows(file: Path, spec: DataSpec, on_error: Complaint) -> Iterator[Row]:
    """One list of objects. Decoded object by object, so that only the text is held as a whole."""
    text = read_text(file)
    place = _skip(text, 0)
    if place == len(text):
        return
    if text[place] != "[":
        raise _no_list(file, text, place)
    line, counted, is_first = 1, 0, True
    while True:
        place = _skip(text, place + 1)
        if is_first and text[place : place + 1] == "]":
            break
        line, counted, is_first = line + text.count("\n", counted, place), place, False
        try:
            value, place = _DECODER.raw_decode(text, place)
        except (ValueError, RecursionError) as error:
            raise _bad_json(error, text, file, line) from None
        if isinstance(value, dict):
            yield Row(file, line, value)
        else:
            on_error(UserError(f"{type_name(value)}, not an object", file=file, line=line, expected="objects only"))
        place = _skip(text, place)
        if text[place : place + 1] != ",":
            break
    if text[place : place + 1] != "]":
        unfinished = json.JSONDecodeError("Expecting ',' delimiter or the list's end", text, place)
        raise _bad_json(unfinished, text, file, line)
    if (rest := _skip(text, place + 1)) != len(text):
        got = f"more text after the list's end: `{text[rest : rest + 20]}`"
        raise UserError(got, file=file, line=_line(text, rest))


def _txt_rows(file: Path, spec: DataSpec, on_error: Complaint) -> Iterator[Row]:
    if spec.split == "document":
        text = read_text(file).replace("\r\n", "\n")
        if text.strip():
            yield Row(file, 1, {"text": text})
        return
    for number, text in read_lines(file):
        if text.strip():
            yield Row(file, number, {"text": text.rstrip("\r\n")})


def _no_list(file: Path, text: str, place: int) -> UserError:
    """Why a .json file that does not begin with `[` cannot be read."""
    try:
        value, end = _DECODER.raw_decode(text, place)
    except (ValueError, RecursionError) as error:
        return _bad_json(error, text, file, _line(text, place))
    fix = None
    if text[_skip(text, end) : _skip(text, end) + 1] == "{":
        fix = "it holds one object a line: rename it to .jsonl"
    elif isinstance(value, dict):
        lists = [key for key, inner in value.items() if isinstance(inner, list)]
        fix = f'keep only the list under "{lists[0]}"' if len(lists) == 1 else None
    expected = 'one list of objects, like [{"text": "…"}, …]'
    return UserError(f"{type_name(value)}, not a list", file=file, line=_line(text, place), expected=expected, fix=fix)


def _bad_json(error: ValueError | RecursionError, text: str, file: Path, line: int) -> UserError:
    """The mistake with its surroundings. line: of the text's record; the mistake itself may lie further down."""
    if isinstance(error, RecursionError):
        return UserError("nested too deeply to be read", file=file, line=line)
    if not isinstance(error, json.JSONDecodeError):
        return UserError(f"not valid JSON: {error}", file=file, line=line)
    whole = suffix_of(file) == ".json"
    here = error.lineno if whole else line
    end = len(text.rstrip())
    if error.pos >= end or error.msg.startswith("Unterminated string"):
        tail = text[max(0, end - 30) : end]
        what = "the file" if whole else "the line"
        fix = "copy or download the file again" if whole or not text.endswith("\n") else "repair or remove the line"
        here = _line(text, end) if whole else line
        return UserError(f"{what} is cut off; it ends with `{tail}`", file=file, line=here, fix=fix)
    near = text[max(0, error.pos - 20) : error.pos] + "⟨here⟩" + text[error.pos : error.pos + 20].rstrip()
    reason = error.msg[0].lower() + error.msg[1:]
    got = f"not valid JSON at column {error.colno}: {reason}, near `{near}`"
    return UserError(got, file=file, line=here, expected="strict JSON")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)


def _skip(text: str, place: int) -> int:
    match = _SPACE.match(text, place)
    return match.end() if match else place


def _line(text: str, place: int) -> int:
    return 1 + text.count("\n", 0, place)
