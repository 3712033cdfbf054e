"""Bytes of data files as lines of UTF-8 text, gzip or not, with every way that can fail told with its line."""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from fettle.errors import UserError

_TEXTS = (".jsonl", ".json", ".txt", ".csv", ".tsv")
SUFFIXES = (*_TEXTS, ".parquet")
KNOWN = f"{', '.join(_TEXTS)}, each also with .gz, and .parquet"
_BLOCK = 1 << 15  # for .jsonl a fifth faster than 64 kB, a half than 1 MB: a block and its marks stay in the cache
_UTF8_BOM = b"\xef\xbb\xbf"
_UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")
_GZIP_MAGIC = b"\x1f\x8b"
# What a file of text is now and then: its first bytes, what it is, what to do.
_OTHERS = (
    (b"PAR1", "Parquet data", "rename it to end in .parquet"),
    (b"PK\x03\x04", "a zip archive or an Excel file", "unpack it, or save the sheet as CSV"),
    (b"\x28\xb5\x2f\xfd", "zstd data", "unpack it: zstd -d FILE"),
    (b"BZh", "bzip2 data", "unpack it: bunzip2 FILE"),
    (b"\xfd7zXZ", "xz data", "unpack it: unxz FILE"),
)


def suffix_of(file: Path) -> str:
    """The suffix in SUFFIXES that a file's name ends with, `.gz` of a text left out; an empty string for any other."""
    name = file.name.lower()
    if name.endswith(".parquet"):
        return ".parquet"
    return next((suffix for suffix in _TEXTS if name.removesuffix(".gz").endswith(suffix)), "")


def read_blocks(file: Path, encoding: str = "utf-8") -> Iterator[list[bytes]]:
    """A text file's lines with their ends, some 32 kB at a time, as UTF-8. Only `\\n` ends a line: U+2028 does not.

    Bytes that are not UTF-8 in a file said to be UTF-8 are passed on; `decode` refuses them. Raises UserError, after
    the whole lines before it, where a file cannot be read, unpacked or translated any further.
    """
    number = 0
    pipe = _Pipe(_utf8(file, encoding))
    with io.BufferedReader(pipe, _BLOCK) as stream:  # type: ignore[type-var]
        while lines := stream.readlines(_BLOCK):
            if pipe.broken and not lines[-1].endswith(b"\n"):
                lines.pop()
            yield lines
            number += len(lines)
    if isinstance(pipe.broken, _Torn):
        after = f" after line {number}" if number else ""
        raise UserError(pipe.broken.got + after, file=file, line=number + 1, fix=pipe.broken.fix)
    if pipe.broken:
        raise pipe.broken


def read_text(file: Path, encoding: str = "utf-8") -> str:
    """The whole file as text."""
    raw = b"".join(chain.from_iterable(read_blocks(file, encoding)))
    return decode(raw, file, 1, 0)


def decode(raw: bytes, file: Path, line: int, offset: int) -> str:
    """UTF-8 text of `raw`, which begins at `line` and byte `offset` of the file; a byte order mark is dropped.

    Raises UserError with the line and the byte's offset in the (unpacked) file, also for a NUL.
    """
    if offset == 0 and raw.startswith(_UTF8_BOM):
        raw = raw[len(_UTF8_BOM) :]
        offset = len(_UTF8_BOM)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        place = error.start
        got = f"not UTF-8 text: byte 0x{raw[place]:02x} at offset {offset + place}"
        expected = "UTF-8"
        fix = "say `encoding: latin-1` in the recipe, or convert it: iconv -f WINDOWS-1252 -t UTF-8 OLD > NEW"
    else:
        if "\0" not in text:
            return text
        place = raw.index(b"\0")
        got, expected, fix = f"a NUL byte at offset {offset + place}", "text", "remove it, or copy the file again"
    raise UserError(got, file=file, line=line + raw.count(b"\n", 0, place), expected=expected, fix=fix)


class _Torn(Exception):
    """What ends a file in the middle."""

    def __init__(self, got: str, fix: str = "copy or download the file again") -> None:
        super().__init__(got)
        self.got, self.fix = got, fix


class _Pipe(io.RawIOBase):
    """Chunks as a stream. What they raise ends it and is kept in `broken`, so that no line before it is lost."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks, self._rest = chunks, memoryview(b"")
        self.broken: UserError | _Torn | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        while not self._rest:
            try:
                self._rest = memoryview(next(self._chunks))
            except StopIteration:
                return 0
            except (UserError, _Torn) as error:
                self.broken = error
                return 0
        part, self._rest = self._rest[: len(buffer)], self._rest[len(buffer) :]
        buffer[: len(part)] = part
        return len(part)


def _utf8(file: Path, encoding: str) -> Iterator[bytes]:
    chunks = _unpacked(file)
    first = next(chunks, b"")
    is_utf8 = codecs.lookup(encoding).name in ("utf-8", "utf-8-sig")
    _refuse(first, file, is_utf8)
    chunks = chain([first], chunks)
    return chunks if is_utf8 else _translated(chunks, encoding)


def _unpacked(file: Path) -> Iterator[bytes]:
    try:
        with io.BufferedReader(io.FileIO(file), _BLOCK) as packed:
            is_gzip, is_named = packed.peek(2)[:2] == _GZIP_MAGIC, file.suffix.lower() == ".gz"
            if is_named and packed.peek(1) and not is_gzip:
                raise UserError("not a gzip file", file=file, fix=f"rename it to {file.name[: -len('.gz')]}")
            if is_gzip and not is_named:
                got = "gzip data, but the name does not end in .gz"
                raise UserError(got, file=file, fix=f"rename it to {file.name}.gz")
            stream = gzip.GzipFile(fileobj=packed) if is_gzip else packed
            while chunk := stream.read1(_BLOCK):
                yield chunk
    except EOFError:
        raise _Torn("the gzip file is cut off") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise _Torn(f"damaged gzip data ({error})") from None
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror or error})", file=file) from None


def _refuse(first: bytes, file: Path, is_utf8: bool) -> None:
    """Raises UserError where the first bytes show that the file is no text, or not in UTF-8."""
    for magic, what, fix in _OTHERS:
        if first.startswith(magic):
            raise UserError(f"{what}, not text", file=file, fix=fix)
    if not is_utf8:
        return
    if first.startswith(_UTF16_BOMS):
        name = "utf-32" if first.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")) else "utf-16"
        got = f"{name.upper()} text, not UTF-8 (byte order mark at offset 0)"
    elif b"\0" in first[:2]:
        name = "utf-16-le" if first[0] else "utf-16-be"
        got = f"a NUL byte at offset {first.index(0)}: UTF-16 without a byte order mark, or no text at all"
    else:
        return
    fix = f"say `encoding: {name}` in the recipe, or convert it: iconv -f {name.upper()} -t UTF-8 OLD > NEW"
    raise UserError(got, file=file, expected="UTF-8", fix=fix)


def _translated(chunks: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder(encoding)()
    offset = 0
    for chunk in chain(chunks, [b""]):
        state = decoder.getstate()
        try:
            text = decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            start = error.start - (len(error.object) - len(chunk))  # the decoder kept some bytes of the chunk before
            decoder.setstate(state)
            yield decoder.decode(chunk[: max(0, start)]).encode("utf-8", "surrogatepass")
            got = f"not {encoding} text: byte 0x{error.object[error.start]:02x} at offset {offset + start}"
            raise _Torn(got, "see which `encoding` the file is in") from None
        offset += len(chunk)
        yield text.encode("utf-8", "surrogatepass")  # a codec that makes half characters: refused as no UTF-8
