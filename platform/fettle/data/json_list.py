"""Rows of a .json file: one list of objects, or LMFlow's `{"type": …, "instances": […]}`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fettle.data.files import read_text
from fettle.data.strict_json import StrictDecoder, bad_json, line_of, skip_space, type_name
from fettle.errors import UserError, did_you_mean
from fettle.recipe.data import DataSpec

# LMFlow's src/lmflow/utils/constants.py, INSTANCE_FIELDS_MAP.
_TYPES = (
    *("text_only", "text2text", "conversation", "paired_conversation", "paired_text_to_text"),
    *("text_to_textlist", "text_to_scored_textlist"),
)
_NOT_TEXT = ("float_only", "image_text")


def read_json(file: Path, spec: DataSpec) -> Iterator[tuple[int, dict[str, Any] | UserError]]:
    """(line, object or what is wrong with it) for each item of the list; only the text is held as a whole.

    Raises UserError where the list's end, or the next item, cannot be found.
    """
    text = read_text(file, spec.encoding)
    start = skip_space(text, 0)
    if start == len(text):
        return
    decoder = StrictDecoder()
    place = start if text[start] == "[" else _instances(file, text, start, decoder)
    line, counted, is_first = 1, 0, True
    while True:
        place = skip_space(text, place + 1)
        if is_first and text[place : place + 1] == "]":
            break
        line, counted, is_first = line + text.count("\n", counted, place), place, False
        value, place, problem = _value(decoder, file, text, place)
        if problem:
            yield line, UserError(problem, file=file, line=line)
        elif isinstance(value, dict):
            yield line, value
        else:
            yield line, UserError(f"{type_name(value)}, not an object", file=file, line=line, expected="objects only")
        place = skip_space(text, place)
        if text[place : place + 1] != ",":
            break
    if text[place : place + 1] != "]":
        unfinished = json.JSONDecodeError("Expecting ',' delimiter or the list's end", text, place)
        raise bad_json(unfinished, text, file, line, is_whole=True)
    end = place + 1 if text[start] == "[" else _end_of_object(file, text, place + 1, decoder)
    if (rest := skip_space(text, end)) != len(text):
        got = f"more text after the list's end: `{text[rest : rest + 20]}`"
        raise UserError(got, file=file, line=line_of(text, rest))


def _instances(file: Path, text: str, start: int, decoder: StrictDecoder) -> int:
    """The place of LMFlow's list. Raises UserError where the value at `start` is not one of its objects."""
    value, end, problem = _value(decoder, file, text, start)
    if not isinstance(value, dict) or problem or not isinstance(value.get("instances"), list) or "type" not in value:
        raise _no_list(file, text, start, value, end, problem)
    if (kind := value["type"]) not in _TYPES:
        got = f"unknown type {kind!r}{did_you_mean(str(kind), _TYPES)}"
        if kind in _NOT_TEXT:
            got = f"instances of type {kind}, which are not text alone"
        raise UserError(got, file=file, line=line_of(text, start), field="type", expected=", ".join(_TYPES))
    place, key = start, None
    while key != "instances":
        key, place, _ = decoder.value_at(text, skip_space(text, place + 1))
        place = skip_space(text, skip_space(text, place) + 1)
        if key != "instances":
            place = skip_space(text, decoder.value_at(text, place)[1])
    return place


def _end_of_object(file: Path, text: str, place: int, decoder: StrictDecoder) -> int:
    """The place after the object whose member `instances` ends at `place`; it is known to be whole."""
    while text[place := skip_space(text, place)] == ",":
        place = decoder.value_at(text, skip_space(text, place + 1))[1]
        place = decoder.value_at(text, skip_space(text, skip_space(text, place) + 1))[1]
    return place + 1


def _no_list(file: Path, text: str, start: int, value: Any, end: int, problem: str | None) -> UserError:
    """Why a .json file that begins with neither a list nor LMFlow's object cannot be read."""
    fix = None
    if text[skip_space(text, end) : skip_space(text, end) + 1] == "{":
        fix = "it holds one object a line: rename it to .jsonl"
    elif isinstance(value, dict):
        lists = [key for key, inner in value.items() if isinstance(inner, list)]
        fix = f'keep only the list under "{lists[0]}"' if len(lists) == 1 else None
    got = problem or f"{type_name(value)}, not a list"
    expected = 'one list of objects, like [{"text": "…"}, …]'
    return UserError(got, file=file, line=line_of(text, start), expected=expected, fix=fix)


def _value(decoder: StrictDecoder, file: Path, text: str, place: int) -> tuple[Any, int, str | None]:
    try:
        return decoder.value_at(text, place)
    except (ValueError, RecursionError) as error:
        raise bad_json(error, text, file, line_of(text, place), is_whole=True) from None
