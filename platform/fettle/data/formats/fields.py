"""A column's value as text, number or truth, or the line and field of what is wrong with it."""

from __future__ import annotations

import math
from typing import Any

import msgspec
from msgspec import Struct

from fettle.data.rows import Row, type_name
from fettle.errors import UserError

NUL = "\0"


class Layout(Struct, frozen=True):
    """Where the rows with certain keys keep what a format reads.

    columns: the format's name of each column that is there → the file's. words: the file's word for a role → the role.
    keys: of a message, those of its role and its content, where the recipe names them.
    """

    columns: dict[str, str]
    words: dict[str, str]
    keys: tuple[str | None, str | None] = (None, None)

    def value(self, row: Row, column: str) -> Any:
        """The row's value in a column of the format, None where it has none."""
        key = self.columns.get(column)
        return None if key is None else row.columns[key]


def wrong(row: Row, field: str, got: str, expected: str, fix: str | None = None) -> UserError:
    """What is wrong with a field of a row, as an error to raise."""
    return UserError(got, file=row.file, line=row.line, field=field, expected=expected, fix=fix)


def text_in(row: Row, value: Any, field: str) -> str:
    """The value where it is text. Raises UserError where it is none, or holds a NUL."""
    if type(value) is not str:
        raise wrong(row, field, f"{type_name(value)}, not text", "text")
    if NUL in value:
        place = value.index(NUL) + 1
        raise wrong(row, field, f"a NUL character, which is no text (character {place})", "text without \\u0000")
    return value


def text_or_none(row: Row, layout: Layout, column: str) -> str:
    """The text in a column that may be missing, null or empty: then an empty text."""
    key = layout.columns.get(column)
    if key is None:
        return ""
    value = row.columns[key]
    return "" if value is None else text_in(row, value, key)


def texts_in(row: Row, value: Any, field: str) -> list[str]:
    """The value where it is a list of texts, at least one."""
    if not isinstance(value, list):
        raise wrong(row, field, f"{type_name(value)}, not a list of texts", '["…", "…"]')
    if not value:
        raise wrong(row, field, "an empty list", "at least one text")
    return [text_in(row, item, f"{field}.{place}") for place, item in enumerate(value)]


def number_in(row: Row, value: Any, field: str) -> float:
    """The value as a number; text that is one, as a .csv has it, is too."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        got = f"{value!r}" if isinstance(value, str) else type_name(value)
        raise wrong(row, field, f"{got}, not a number", "a number")
    return number


def truth_in(row: Row, value: Any, field: str, fix: str | None = None) -> bool:
    """The value as true or false; 1 and 0, and those words as text, as a .csv has them, are too."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        found = {"true": True, "false": False, "1": True, "0": False}.get(value.strip().lower())
    else:
        found = bool(value) if isinstance(value, (int, float)) and value in (0, 1) else None
    if found is None:
        got = f"{value!r}" if isinstance(value, (str, int, float)) else type_name(value)
        raise wrong(row, field, f"{got}, neither true nor false", "true or false (or 1 or 0)", fix)
    return found


def json_in(row: Row, value: str, field: str) -> Any:
    """The value of JSON that is held in text."""
    try:
        return msgspec.json.decode(text_in(row, value, field))
    except (msgspec.DecodeError, RecursionError) as error:
        got = f"text that is not valid JSON: {str(error).removeprefix('JSON is malformed: ')}, in `{value[:40]}`"
        raise wrong(row, field, got, "strict JSON, with double quotes") from None
