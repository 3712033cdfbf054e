"""Which format a file is in, told from its rows' keys, and its rows as records."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import chain, islice
from pathlib import Path
from typing import Any

from fettle.data.files import suffix_of
from fettle.data.formats.fields import Layout
from fettle.data.formats.shapes import SHAPES, Names, Shape
from fettle.data.formats.turns import CALL, WORDS
from fettle.data.record import ROLES, Record
from fettle.data.rows import Complaint, Row, complain, read_rows
from fettle.errors import UserError, did_you_mean
from fettle.recipe.data import DataSpec, FormatName

_COLUMNS = {name for shape in SHAPES for names in (*shape.required, *shape.optional) for name in names}
_MESSAGE_KEYS = ("role", "content")
_MEDIA = ("image", "images", "video", "videos", "audio", "audios")
_FIRST_ROWS = 10


@dataclass(frozen=True)
class Format:
    """What was decided about a file, and why. columns: those that are read. ignored: the first row's other ones."""

    name: FormatName
    columns: tuple[str, ...]
    ignored: tuple[str, ...]
    why: str


def read_file(
    file: Path, spec: DataSpec | None = None, on_error: Complaint = complain
) -> tuple[Format, Iterator[Record]]:
    """(the file's format, its records), read as `spec` says. Raises UserError where no row can be read at all."""
    spec = spec or DataSpec(path=str(file))
    return as_records(file, read_rows(file, spec, on_error), spec, on_error)


def as_records(
    file: Path, rows: Iterator[Row], spec: DataSpec, on_error: Complaint = complain
) -> tuple[Format, Iterator[Record]]:
    """(the format of the first row, every row as a record). A bad row is told to `on_error` and left out.

    The first row is that of the first ten which has a format; where none has, the first one's UserError is raised.
    """
    reader = _Reader(file, spec, on_error)
    refused: list[UserError] = []
    for row in islice(rows, _FIRST_ROWS):
        try:
            format_ = reader.begin(row)
        except UserError as error:
            refused.append(error)
            continue
        for refusal in refused:
            on_error(refusal)
        return format_, reader.records(chain([row], rows))
    raise refused[0] if refused else UserError("no readable record", file=file)


def detect(row: Row, spec: DataSpec | None = None) -> Format:
    """The format of a row, by its keys and what `spec` says. Raises UserError naming the formats and the keys found."""
    return _Reader(row.file, spec or DataSpec(path=str(row.file)), complain).begin(row)


class _Reader:
    """The rows of one file as records: finds a shape once for all rows with the same keys."""

    def __init__(self, file: Path, spec: DataSpec, on_error: Complaint) -> None:
        self._file, self._spec, self._on_error = file, spec, on_error
        self._shapes = [shape for shape in SHAPES if spec.format in (None, shape.name)]
        _check_columns(file, spec)
        self._words = _words(file, spec)
        self._known: dict[tuple[str, ...], tuple[Shape, Layout]] = {}

    def begin(self, row: Row) -> Format:
        """Decides the format by this row, the file's first. Raises UserError where it has none."""
        found = self._found(row.columns)
        self._check_named(row)
        shape = self._shape_of(row.columns, found)
        if shape is None:
            raise self._unknown(row, found)
        if self._spec.format is None:
            _check_unread(row, shape)
        self._shape, self._first = shape, row
        columns = tuple(shape.columns_in(found).values())
        ignored = tuple(key for key in row.columns if key not in columns and shape.name != "prompt")
        return Format(shape.name, columns, ignored, self._why(row, shape, columns))

    def records(self, rows: Iterator[Row]) -> Iterator[Record]:
        """Every row as a record; a bad one is told and left out. Raises UserError at a row of another format."""
        known = self._known
        for row in rows:
            keys = tuple(row.columns)
            reading = known.get(keys) or self._learn(keys, row)
            if reading is None:
                continue
            try:
                record = reading[0].to_record(row, reading[1])
            except UserError as error:
                self._on_error(error)
                continue
            yield record

    def _learn(self, keys: tuple[str, ...], row: Row) -> tuple[Shape, Layout] | None:
        """How to read the rows with these keys, from now on; None, after telling so, where they lack a column."""
        found = self._found(keys)
        shape = self._shape_of(row.columns, found)
        if shape is None or (shape.name != self._shape.name and self._is_half(shape, found)):
            self._on_error(self._missing(row, found))
            return None
        if shape.name != self._shape.name:
            raise self._mixed(row, shape, found)
        names = self._spec.columns
        layout = Layout(shape.columns_in(found), self._words, (names.get("role"), names.get("content")))
        self._known[keys] = shape, layout
        return shape, layout

    def _found(self, keys: Iterable[str]) -> dict[str, str]:
        """Every name that a column goes by → the file's own: itself, or what the recipe names it."""
        named = {ours: theirs for ours, theirs in self._spec.columns.items() if ours not in _MESSAGE_KEYS}
        here = {key: key for key in keys if key not in named.values()}
        return here | {ours: theirs for ours, theirs in named.items() if theirs in set(keys)}

    def _shape_of(self, columns: dict[str, Any], found: dict[str, str]) -> Shape | None:
        for shape in self._shapes:
            names = shape.columns_in(found)
            if shape.lacking(names):
                continue
            if shape.when is None or shape.when({ours: columns[theirs] for ours, theirs in names.items()}):
                return shape
        return None

    def _check_named(self, row: Row) -> None:
        for ours, theirs in self._spec.columns.items():
            if theirs not in row.columns and ours != theirs and ours not in _MESSAGE_KEYS:
                got = f"the recipe names the column '{theirs}', which is not there{did_you_mean(theirs, row.columns)}"
                where: dict[str, Any] = {"file": row.file, "line": row.line, "field": f"columns.{ours}"}
                raise UserError(got, **where, expected=_listed(row.columns))

    def _why(self, row: Row, shape: Shape, columns: tuple[str, ...]) -> str:
        if suffix_of(row.file) == ".txt":
            return "a .txt file is plain text"
        said = [f"{_place(row)} has {_listed(columns[: len(shape.required)])}"]
        if self._spec.format is not None:
            said.append("the recipe names the format")
        return "; ".join([*said, shape.note] if shape.note else said)

    def _is_half(self, shape: Shape, found: dict[str, str]) -> bool:
        """Whether the row, though it fits `shape`, is one of the file's own format that lacks a column."""
        own = self._shape.columns_in(found)
        lacking = self._shape.lacking(own)
        read = set(shape.columns_in(found).values())
        return bool(lacking) and (read <= set(self._first.columns) or bool(self._slip(lacking, found)))

    def _slip(self, lacking: list[Names], found: dict[str, str]) -> str:
        """`" (did you mean …)"` where a key the first row does not have is nearly one that is lacking."""
        return did_you_mean(lacking[0][0], [key for key in found if key not in self._first.columns])

    def _missing(self, row: Row, found: dict[str, str]) -> UserError:
        shape, first = self._shape, self._first
        own = shape.columns_in(self._found(first.columns))
        lacking = shape.lacking(shape.columns_in(found))
        before = f"{_place(first)} has {_listed(first.columns)} ({shape.name})"
        got = (
            f"this column is missing{self._slip(lacking, found)}; the line has the keys {_listed(row.columns)}, "
            f"while {before}"
        )
        expected = _listed(own[names[0]] for names in shape.required)
        return UserError(got, file=row.file, line=row.line, field=own[lacking[0][0]], expected=expected)

    def _mixed(self, row: Row, shape: Shape, found: dict[str, str]) -> UserError:
        fix = "put each format in a file of its own"
        if not self._shape.lacking(self._shape.columns_in(found)):
            fix = f"if all of it is {self._shape.name}, say so: `format: {self._shape.name}` in the recipe"
        own = f"this line has the keys {_listed(row.columns)} ({shape.name})"
        before = f"{_place(self._first)} has {_listed(self._first.columns)} ({self._shape.name})"
        got = f"mixed formats in one file: {own}, while {before}"
        return UserError(got, file=row.file, line=row.line, expected="one format a file", fix=fix)

    def _unknown(self, row: Row, found: dict[str, str]) -> UserError:
        where: dict[str, Any] = {"file": row.file, "line": row.line}
        nearest, lacking, hint = self._nearest(found)
        fix = "name the columns in the recipe, such as `columns: {prompt: question, completion: reply}`"
        if self._spec.format is not None:
            got = f"no {self._spec.format} record, which the recipe says it is: it has the keys {_listed(row.columns)}"
            lacks = hint or f" (it lacks {_listed(names[0] for names in lacking)})"
            return UserError(got + lacks, **where, expected=_listed(names[0] for names in nearest.required), fix=fix)
        if list(row.columns) == ["value"]:
            return UserError("numbers alone (LMFlow's float_only): no text to learn", **where, field="value")
        if not hint and len(lacking) < len(nearest.required):
            hint = f" ({nearest.name} lacks {_listed(names[0] for names in lacking)})"
        formats = {shape.name: _listed(names[0] for names in shape.required) for shape in reversed(SHAPES)}
        known = "; ".join(f"{name} ({formats[name]})" for name in dict.fromkeys(shape.name for shape in SHAPES))
        got = f"no known format has the keys {_listed(row.columns)}{hint}"
        return UserError(got, **where, expected=f"the keys of {known}", fix=fix)

    def _nearest(self, found: dict[str, str]) -> tuple[Shape, list[Names], str]:
        """(the shape that least is lacking of, what it lacks, a hint where a key is nearly that)."""
        choices = []
        for place, shape in enumerate(self._shapes):
            columns = shape.columns_in(found)
            lacking = shape.lacking(columns)
            spare = [key for key, theirs in found.items() if theirs not in columns.values()]
            slips = [(slip, name) for names in lacking for name, slip in _slips(names, spare)]
            is_hopeless = len(lacking) == len(shape.required) and not slips
            unlike = max(0, len(lacking) - len(slips))
            choices.append(((is_hopeless, unlike, len(lacking), shape.when is not None, place), shape, lacking, slips))
        _, shape, lacking, slips = min(choices, key=lambda choice: choice[0])
        return shape, lacking, f" ('{slips[0][0]}': did you mean '{slips[0][1]}'?)" if slips else ""


def _check_columns(file: Path, spec: DataSpec) -> None:
    for ours in spec.columns:
        if ours not in _COLUMNS and ours not in _MESSAGE_KEYS:
            got = f"the recipe names '{ours}', which is no format's column{did_you_mean(ours, _COLUMNS)}"
            expected = "{the format's column: the file's}, such as {prompt: question}"
            raise UserError(got, file=file, field="columns", expected=expected)


def _words(file: Path, spec: DataSpec) -> dict[str, str]:
    """What messages may call a role → the role."""
    for role in spec.roles:
        if role not in (*ROLES, CALL):
            got = f"the recipe names '{role}', which is no role{did_you_mean(role, (*ROLES, CALL))}"
            raise UserError(got, file=file, field="roles", expected=_listed((*ROLES, CALL)))
    return WORDS | {word: role for role, word in spec.roles.items()}


def _check_unread(row: Row, shape: Shape) -> None:
    """Raises UserError where a column that is not read would change what the record means."""
    fix = f"to leave it unread all the same: `format: {shape.name}` in the recipe"
    where: dict[str, Any] = {"file": row.file, "line": row.line, "fix": fix}
    for key in _MEDIA:
        if row.columns.get(key):
            raise UserError("not read: only text is", **where, field=key, expected="records without images or sound")
    for key in ("chosen", "rejected", "rejected_response", "rejected_messages", "kto_tag"):
        if shape.name not in ("preference", "unpaired") and key in row.columns:
            got = f"{shape.name} with this column is half a preference"
            expected = "chosen and rejected, or an answer and its label"
            raise UserError(got, **where, field=key, expected=expected)


def _slips(names: Names, keys: list[str]) -> list[tuple[str, str]]:
    """(the name, the key that is nearly it) for the first of a column's names that has one."""
    found = ((name, near) for name in names for near in get_close_matches(name, keys, n=1, cutoff=0.75))
    return list(islice(found, 1))


def _place(row: Row) -> str:
    return f"{'row' if suffix_of(row.file) == '.parquet' else 'line'} {row.line}"


def _listed(keys: Iterable[str]) -> str:
    return ", ".join(keys) or "none"
