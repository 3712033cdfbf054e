"""Rows of .csv, .tsv and .parquet files: one a line (or several lines, quoted) under a header, or one a table's row."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from fettle.data.files import decode, read_blocks, suffix_of
from fettle.errors import UserError
from fettle.recipe.data import DataSpec

csv.field_size_limit(1 << 28)  # Python's own, 128 kB, is less than a long document; no limit lets a stray quote eat RAM
_PARQUET_MAGIC = b"PAR1"
_BATCH = 256  # rows


def read_csv(file: Path, spec: DataSpec) -> Iterator[tuple[int, dict[str, Any] | UserError]]:
    """(line it begins on, the row's columns, all text, or what is wrong with it). After a bad row the next follows.

    Raises UserError for a header that cannot be used and a quote that is never closed.
    """
    bad: list[UserError] = []
    delimiter = "\t" if suffix_of(file) == ".tsv" else ","
    rows = csv.reader(_texts(file, spec.encoding, bad), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    line = 1
    while True:
        line = rows.line_num + 1
        try:
            cells = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            problem = _bad_csv(error, file, line)
            if header is None or "never closed" in problem.got:
                raise problem from None
            yield line, bad[0] if bad else problem
        else:
            if not cells:
                continue
            if header is None:
                if bad:
                    raise bad[0]
                header = _header(cells, file, line, delimiter)
            elif bad:
                yield line, bad[0]
            elif len(cells) == len(header):
                yield line, dict(zip(header, cells, strict=True))
            else:
                yield line, _ragged(cells, header, file, line)
        bad.clear()


def read_parquet(file: Path, spec: DataSpec) -> Iterator[tuple[int, dict[str, Any]]]:
    """(row number from 1, the row's columns); a null is a column that is not there. Raises UserError for a bad file."""
    import pyarrow  # takes half a second to import, and most data is text
    from pyarrow.parquet import ParquetFile

    number = 0
    try:
        with open(file, "rb") as stream:
            if (magic := stream.read(4)) != _PARQUET_MAGIC:
                got = f"not a Parquet file: it begins with {magic!r}" if magic else "the file is empty"
                raise UserError(got, file=file, expected="`PAR1` and a table", fix="give it the suffix of what it is")
            stream.seek(0)
            table = ParquetFile(stream)
            names = table.schema_arrow.names
            if twins := [name for place, name in enumerate(names) if name in names[:place]]:
                raise UserError(f"two columns are called '{twins[0]}'", file=file)
            for batch in table.iter_batches(_BATCH):
                for row in batch.to_pylist(maps_as_pydicts="strict"):
                    number += 1
                    yield number, {name: value for name, value in row.items() if value is not None}
    except (pyarrow.ArrowException, UnicodeDecodeError, KeyError, OSError) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        after = f" after row {number}" if number else ""
        fix = "copy or download the file again"
        raise UserError(f"cut off or damaged{after} ({why})", file=file, line=number + 1, fix=fix) from None


def _texts(file: Path, encoding: str, bad: list[UserError]) -> Iterator[str]:
    """The file's lines. One that is not UTF-8 is told in `bad`, for the row that it is a part of."""
    number = offset = 0
    for lines in read_blocks(file, encoding):
        for raw in lines:
            number += 1
            try:
                text = decode(raw, file, number, offset)
            except UserError as error:
                bad.append(error)
                text = raw.decode("utf-8", "replace")
            offset += len(raw)
            yield text


def _header(cells: list[str], file: Path, line: int, delimiter: str) -> list[str]:
    """The names of the columns. Raises UserError where there is none, one twice, or the file is of another kind."""

    def refuse(got: str, fix: str) -> NoReturn:
        raise UserError(got, file=file, line=line, expected="a header: the names of the columns", fix=fix)

    if cells[0].lstrip()[:1] in ("{", "["):
        refuse("JSON, not a table", "rename it to .jsonl (one object a line) or .json (one list)")
    if len(cells) == 1 and "\t" in cells[0]:
        refuse("the columns are separated by tabs", "rename it to .tsv")
    if len(cells) == 1 and delimiter == "\t" and "," in cells[0]:
        refuse("the columns are separated by commas", "rename it to .csv")
    if len(cells) == 1 and ";" in cells[0]:
        refuse("the columns are separated by semicolons", "save it with commas, or with tabs as .tsv")
    for place, name in enumerate(cells):
        if not name.strip():
            refuse(f"column {place + 1} has no name", "name it, or leave it out (pandas: to_csv(index=False))")
        if name in cells[:place]:
            refuse(f"two columns are called '{name}'", "rename one of them")
    return cells


def _ragged(cells: list[str], header: list[str], file: Path, line: int) -> UserError:
    columns = f"{len(cells)} column{'s' if len(cells) > 1 else ''}"
    return UserError(
        f"{columns}, but the header has {len(header)}",
        file=file,
        line=line,
        expected=", ".join(header),
        fix='put values that hold a comma, a tab or a line end in double quotes: "one, two"',
    )


def _bad_csv(error: csv.Error, file: Path, line: int) -> UserError:
    why = str(error)
    if "unexpected end of data" in why or "field limit" in why:
        fix = 'close it; a quote inside a quoted value is written twice: "say ""hi"""'
        return UserError("a quote opened in this row is never closed", file=file, line=line, fix=fix)
    if "new-line character" in why:
        fix = "end the lines with LF or CRLF: tr '\\r' '\\n' < OLD > NEW"
        return UserError("a bare carriage return outside quotes", file=file, line=line, fix=fix)
    if "expected after" in why:
        fix = 'a quote inside a quoted value is written twice: "say ""hi"""'
        return UserError("text after a closing quote", file=file, line=line, fix=fix)
    return UserError(f"not valid CSV: {why}", file=file, line=line)
