"""Rows of every format people bring, as records."""

from fettle.data.formats.detect import Format, as_records, detect, read_file
from fettle.data.formats.shapes import SHAPES

__all__ = ["SHAPES", "Format", "as_records", "detect", "read_file"]
