"""Rows of a file: JSON objects, each with the line it begins on. What is not strict JSON is an error with its place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from msgspec import Struct

from fettle.data.files import decode, read_blocks, read_text, suffix_of
from fettle.data.json_list import read_json
from fettle.data.jsonl import read_jsonl
from fettle.data.strict_json import type_name as type_name
from fettle.data.tables import read_csv, read_parquet
from fettle.errors import UserError
from fettle.recipe.data import DataSpec

Complaint = Callable[[UserError], None]


class Row(Struct, frozen=True):
    """One object of a file, or one row of a table. line: the one it begins on, or the row's number; from 1."""

    file: Path
    line: int
    columns: dict[str, Any]


def complain(error: UserError) -> NoReturn:
    """What readers do with a bad row unless told otherwise: raise. Another function may collect it and return."""
    raise error


def complaint_of(spec: DataSpec) -> Complaint:
    """What the source says becomes of a bad record, for those who read it where others have told, or will tell, which
    records were left out."""
    return complain if spec.on_bad_record == "error" else lambda error: None


def read_rows(file: Path, spec: DataSpec | None = None, on_error: Complaint = complain) -> Iterator[Row]:
    """The rows of a file, one at a time, read as `spec` says; its kind is told from its suffix.

    A bad row, after which the next can be read, is told to `on_error` with its file and line, and left out. What ends
    the file is raised, after the rows before it: UserError, also for a file without any row.
    """
    reader = _READERS[suffix_of(file)]
    is_empty = True
    for line, found in reader(file, spec or DataSpec(path=str(file))):
        is_empty = False
        if isinstance(found, UserError):
            on_error(found)
        else:
            yield Row(file, line, found)
    if is_empty:
        raise UserError("the file is empty", file=file, expected="at least one record")


def _read_txt(file: Path, spec: DataSpec) -> Iterator[tuple[int, dict[str, Any] | UserError]]:
    if spec.split == "document":
        text = read_text(file, spec.encoding).replace("\r\n", "\n")
        if text.strip():
            yield 1, {"text": text}
        return
    number = offset = 0
    for lines in read_blocks(file, spec.encoding):
        for raw in lines:
            number += 1
            try:
                text = decode(raw, file, number, offset)
            except UserError as error:
                yield number, error
            else:
                if text.strip():
                    yield number, {"text": text.rstrip("\r\n")}
            offset += len(raw)


_READERS: dict[str, Callable[[Path, DataSpec], Iterator[tuple[int, Any]]]] = {
    ".jsonl": read_jsonl,
    ".json": read_json,
    ".txt": _read_txt,
    ".csv": read_csv,
    ".tsv": read_csv,
    ".parquet": read_parquet,
}
