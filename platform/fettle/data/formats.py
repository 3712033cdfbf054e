"""Which format a file is in, told from its rows' keys, and its rows as records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import chain
from pathlib import Path

from fettle.data.record import Record
from fettle.data.rows import Complaint, Row, complain, read_rows
from fettle.data.to_record import from_alpaca, from_messages, from_prompt_completion, from_text
from fettle.errors import UserError, did_you_mean
from fettle.recipe.data import DataSpec


@dataclass(frozen=True)
class Shape:
    """A format fettle knows.

    required, optional: the columns a row must and may have. refused: those that would give it a meaning that is not
    read yet (a preference, an answer to be avoided), so that they must not be passed over.
    """

    name: str
    required: tuple[str, ...]
    optional: tuple[str, ...]
    refused: tuple[str, ...]
    to_record: Callable[[Row], Record]


_PREFERENCE = ("label", "kto_tag", "chosen", "rejected", "rejected_response", "rejected_messages")
# The first whose required columns are all there is taken: published Alpaca and chat sets carry a `text` or `prompt`
# column besides, made from the others.
SHAPES = (
    Shape("messages", ("messages",), ("tools",), _PREFERENCE, from_messages),
    Shape("alpaca", ("instruction", "output"), ("input", "system", "history"), _PREFERENCE, from_alpaca),
    Shape("prompt_completion", ("prompt", "completion"), (), _PREFERENCE, from_prompt_completion),
    Shape("text", ("text",), (), (), from_text),
)


@dataclass(frozen=True)
class Format:
    """What was decided about a file, and why. columns: those that are read. ignored: the first row's other ones."""

    name: str
    columns: tuple[str, ...]
    ignored: tuple[str, ...]
    why: str
    to_record: Callable[[Row], Record]


def detect(row: Row) -> Format:
    """The format of a row, by its keys. Raises UserError naming the formats known and the keys found."""
    shape = _shape_of(row.columns)
    if shape is None:
        raise UserError(
            f"no known format has the keys {_listed(row.columns)}{_nearest(row.columns)}",
            file=row.file,
            line=row.line,
            expected="the keys of " + "; ".join(f"{shape.name} ({_listed(shape.required)})" for shape in SHAPES),
        )
    if refused := [key for key in shape.refused if key in row.columns]:
        raise UserError(
            f"{shape.name} with the column '{refused[0]}' is preference data, which is not read yet",
            file=row.file,
            line=row.line,
            field=refused[0],
            fix="for fine-tuning on the good answers alone, remove the bad ones and this column",
        )
    known = shape.required + shape.optional
    columns = tuple(key for key in known if key in row.columns)
    ignored = tuple(key for key in row.columns if key not in known)
    if row.file.name.lower().removesuffix(".gz").endswith(".txt"):
        why = "a .txt file is plain text"
    else:
        why = f"line {row.line} has {_listed(shape.required)}"
    return Format(shape.name, columns, ignored, why, shape.to_record)


def read_file(
    file: Path, spec: DataSpec | None = None, on_error: Complaint = complain
) -> tuple[Format, Iterator[Record]]:
    """(the file's format, its records), read as `spec` says. Raises UserError where no row can be read at all."""
    spec = spec or DataSpec(path=str(file))
    return as_records(file, read_rows(file, spec, on_error), spec, on_error)


def as_records(
    file: Path, rows: Iterator[Row], spec: DataSpec, on_error: Complaint = complain
) -> tuple[Format, Iterator[Record]]:
    """(the format of the first row, every row as a record). A bad row is told to `on_error` and left out."""
    first = next(rows, None)
    if first is None:
        raise UserError("no readable record", file=file)
    format_ = detect(first)
    return format_, _records(format_, first, rows, on_error)


def _records(format_: Format, first: Row, rows: Iterator[Row], on_error: Complaint) -> Iterator[Record]:
    agreed = {tuple(first.columns)}
    for row in chain([first], rows):
        keys = tuple(row.columns)
        if keys not in agreed:
            shape = _shape_of(keys)
            if shape is None:
                on_error(_missing(format_, first, row))
                continue
            if shape.name != format_.name:
                raise _mixed(format_, first, row, shape)
            agreed.add(keys)
        try:
            yield format_.to_record(row)
        except UserError as error:
            on_error(error)


def _mixed(format_: Format, first: Row, row: Row, shape: Shape) -> UserError:
    own = f"this line has the keys {_listed(row.columns)} ({shape.name})"
    before = f"line {first.line} has {_listed(first.columns)} ({format_.name})"
    return UserError(
        f"mixed formats in one file: {own}, while {before}",
        file=row.file,
        line=row.line,
        expected="one format a file",
        fix="put each format in a file of its own",
    )


def _missing(format_: Format, first: Row, row: Row) -> UserError:
    required = next(shape.required for shape in SHAPES if shape.name == format_.name)
    lacking = next(key for key in required if key not in row.columns)
    hint = did_you_mean(lacking, [key for key in row.columns if key not in first.columns])
    before = f"line {first.line} has {_listed(first.columns)} ({format_.name})"
    got = f"this column is missing{hint}; the line has the keys {_listed(row.columns)}, while {before}"
    return UserError(got, file=row.file, line=row.line, field=lacking, expected=_listed(required))


def _shape_of(keys: Iterable[str]) -> Shape | None:
    found = set(keys)
    return next((shape for shape in SHAPES if found.issuperset(shape.required)), None)


def _nearest(keys: Iterable[str]) -> str:
    """A hint: the format that most of its required columns are there for, or a key that is nearly one."""
    found = set(keys)
    for shape in SHAPES:
        missing = [key for key in shape.required if key not in found]
        if len(missing) < len(shape.required):
            return f" ({shape.name} lacks {_listed(missing)})"
    wanted = [key for shape in SHAPES for key in shape.required]
    near = [(key, match) for key in sorted(found) for match in get_close_matches(key, wanted, n=1, cutoff=0.75)]
    return f" ('{near[0][0]}': did you mean '{near[0][1]}'?)" if near else ""


def _listed(keys: Iterable[str]) -> str:
    return ", ".join(keys) or "none"
