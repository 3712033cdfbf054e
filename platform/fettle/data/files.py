"""Bytes of data files as lines of UTF-8 text, gzip or not, with every way that can fail told with its line."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from fettle.errors import UserError

SUFFIXES = (".jsonl", ".json", ".txt")
_UTF8_BOM = b"\xef\xbb\xbf"
_UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")
_GZIP_MAGIC = b"\x1f\x8b"


def suffix_of(file: Path) -> str:
    """The suffix in SUFFIXES that a file's name ends with, `.gz` left out; an empty string for any other."""
    name = file.name.lower().removesuffix(".gz")
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), "")


def read_lines(file: Path) -> Iterator[tuple[int, str]]:
    """(number from 1, text with its line end) of each line, one at a time. Only `\\n` ends a line: U+2028 does not."""
    offset = 0
    for number, raw in _raw_lines(file):
        yield number, decode(raw, file, number, offset)
        offset += len(raw)


def read_text(file: Path) -> str:
    """The whole file as text."""
    lines = (raw for _, raw in _raw_lines(file))
    raw = b"".join(lines)
    return decode(raw, file, 1, 0)


def decode(raw: bytes, file: Path, line: int, offset: int) -> str:
    """UTF-8 text of `raw`, which begins at `line` and byte `offset` of the file; a byte order mark is dropped.

    Raises UserError with the line and the byte's offset in the (unpacked) file.
    """
    if offset == 0 and raw.startswith(_UTF8_BOM):
        raw = raw[len(_UTF8_BOM) :]
        offset = len(_UTF8_BOM)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        place = error.start
    got = f"not UTF-8 text: byte 0x{raw[place]:02x} at offset {offset + place}"
    fix = "convert it, for instance: iconv -f WINDOWS-1252 -t UTF-8 OLD > NEW"
    if offset == 0 and raw.startswith(_UTF16_BOMS):
        got, fix = "UTF-16 text, not UTF-8 (byte order mark at offset 0)", "iconv -f UTF-16 -t UTF-8 OLD > NEW"
    elif offset == 0 and raw.startswith(_GZIP_MAGIC):
        got, fix = "gzip data, but the name does not end in .gz (byte 0x8b at offset 1)", f"rename to {file.name}.gz"
    raise UserError(got, file=file, line=line + raw.count(b"\n", 0, place), expected="UTF-8", fix=fix)


def _raw_lines(file: Path) -> Iterator[tuple[int, bytes]]:
    number = 0
    try:
        with _open(file) as stream:
            for raw in stream:
                number += 1
                yield number, raw
    except EOFError:
        raise _torn(file, number, "the gzip file is cut off") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        what = "not a gzip file" if number == 0 else f"damaged gzip data ({error})"
        raise _torn(file, number, what) from None
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror or error})", file=file) from None


def _open(file: Path) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(file, "rb")) if file.suffix.lower() == ".gz" else open(file, "rb")


def _torn(file: Path, number: int, got: str) -> UserError:
    after = f" after line {number}" if number else ""
    return UserError(got + after, file=file, line=number + 1, fix="copy or download the file again")
