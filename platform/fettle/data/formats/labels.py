"""A document: raw, or with the label it is to be given."""

from __future__ import annotations

from fettle.data.formats.fields import Layout, text_in, wrong
from fettle.data.record import Record
from fettle.data.rows import Row, type_name


def from_text(row: Row, layout: Layout) -> Record:
    """`{"text": "…"}`: a document."""
    field = layout.columns["text"]
    return Record(row.file, row.line, text=text_in(row, row.columns[field], field))


def from_classification(row: Row, layout: Layout) -> Record:
    """`{"text": "…", "label": "…"}`: a document and its label, as text: a number's digits, `true` or `false`."""
    field = layout.columns["text"]
    return Record(row.file, row.line, text=text_in(row, row.columns[field], field), label=_label(row, layout))


def _label(row: Row, layout: Layout) -> str:
    field = layout.columns["label"]
    value = row.columns[field]
    if isinstance(value, str):
        return text_in(row, value, field)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return str(int(value))
    got = f"the number {value}" if isinstance(value, float) else type_name(value)
    fix = f"if '{field}' is no label: `format: text` in the recipe"
    raise wrong(row, field, f"{got}, not a label", "one label as text, a whole number, or true or false", fix)
