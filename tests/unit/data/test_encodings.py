"""Text in other encodings, and files of another kind than their names say."""

from __future__ import annotations

import gzip
import json

import pytest
from pydantic import ValidationError

from fettle.errors import UserError
from fettle.recipe.data import DataSpec
from reading import message, rows, texts

# Encodings


def test_latin_1_is_told_with_line_offset_and_both_ways_out(write):
    file = write("a.jsonl", b'{"text": "x"}\n{"text": "caf\xe9"}\n')
    told = message(lambda: rows(file))
    assert told.startswith(f"{file}:2: not UTF-8 text: byte 0xe9 at offset 27")  # 14 bytes of line 1, then 13
    assert "`encoding: latin-1`" in told and "iconv -f WINDOWS-1252 -t UTF-8" in told


def test_the_offset_of_a_bad_byte_is_true_behind_many_blocks(write):
    before = b'{"text": "x"}\n' * 20_000
    told = message(lambda: rows(write("a.jsonl", before + b'{"text": "caf\xe9"}\n')))
    assert f":20001: not UTF-8 text: byte 0xe9 at offset {len(before) + 13}" in told


def test_latin_1_in_a_json_file_and_in_a_text_is_told_with_its_line(write):
    assert ":2: not UTF-8 text" in message(lambda: rows(write("a.json", b'[{"text":\n"caf\xe9"}]')))
    assert ":3: not UTF-8 text" in message(lambda: rows(write("a.txt", b"one\ntwo\ncaf\xe9")))
    assert ":3: not UTF-8 text" in message(lambda: rows(write("a.txt", b"one\ntwo\ncaf\xe9"), split="lines"))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1", "cp1252", "utf-8-sig"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.txt", "a.csv"])
def test_a_named_encoding_is_read(write, encoding, name):
    many = [f"café {i}" for i in range(9000)]  # more than a block
    content = {
        "a.jsonl": "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in many),
        "a.json": json.dumps([{"text": text} for text in many], ensure_ascii=False),
        "a.txt": "\n".join(many),
        "a.csv": "\n".join(["text", *many]),
    }[name]
    assert texts(write(name, content.encode(encoding)), encoding=encoding, split="lines") == many


def test_utf_16_lines_end_only_at_whole_newlines(write):
    line = '{"text": "\u0a0a\u0a0d"}\n'  # characters with the bytes of a newline
    assert texts(write("a.jsonl", (line * 2).encode("utf-16")), encoding="utf-16") == ["\u0a0a\u0a0d"] * 2


def test_an_unknown_encoding_is_refused_with_the_recipe():
    for name in ("latin1000", "base64"):
        with pytest.raises(ValidationError, match="no text encoding is called"):
            DataSpec(path="a.jsonl", encoding=name)


@pytest.mark.parametrize(("encoding", "fix"), [("utf-16", "utf-16"), ("utf-32", "utf-32"), ("utf-16-le", "utf-16-le")])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.txt", "a.csv"])
def test_utf_16_is_named_with_its_fix(write, encoding, fix, name):
    told = message(lambda: rows(write(name, '{"text": "x"}\n'.encode(encoding))))
    assert "UTF-" in told and f"`encoding: {fix}`" in told and f"iconv -f {fix.upper()}" in told


def test_utf_16_without_a_mark_is_told_by_its_nuls(write):
    told = message(lambda: rows(write("a.jsonl", '{"text": "x"}\n'.encode("utf-16-be"))))
    assert "a NUL byte at offset 0: UTF-16 without a byte order mark, or no text at all" in told
    assert "`encoding: utf-16-be`" in told


@pytest.mark.parametrize("name", ["a.jsonl", "a.txt", "a.csv", "a.json"])
def test_a_nul_byte_is_told_with_line_and_offset(write, name):
    content = {
        "a.jsonl": b'{"text": "x"}\n{"text": "a\0b"}\n',
        "a.txt": b"one line here\nand a ten \0\n",
        "a.csv": b"text     text\nand a ten \0\n",
        "a.json": b'[{"text": ""},\n"and ten  \0"]\n',
    }[name]
    file = write(name, content)
    at = content.index(b"\0")
    assert message(lambda: rows(file)).startswith(f"{file}:2: a NUL byte at offset {at}")


# Files of another kind than their names say


def test_a_json_list_in_a_jsonl_file_is_told_to_be_renamed(write):
    for content in ('[{"text": "x"}]', '\n[\n  {"text": "x"}\n]\n', "[\n]"):
        assert "rename it to .json" in message(lambda content=content: rows(write("a.jsonl", content)))


def test_objects_over_several_lines_in_a_jsonl_file_are_told_once(write):
    file = write("a.jsonl", json.dumps({"text": "x"}, indent=2) + "\n")
    mistakes: list[UserError] = []
    told = message(lambda: rows(file, mistakes.append))
    assert told.startswith(f"{file}:1: an object that goes over several lines") and not mistakes


def test_json_lines_in_a_json_file_are_told_to_be_renamed(write):
    told = message(lambda: rows(write("a.json", '{"text": "x"}\n{"text": "y"}\n')))
    assert "an object, not a list" in told and "fix: it holds one object a line: rename it to .jsonl" in told


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.txt", "a.csv", "a.tsv.gz"])
@pytest.mark.parametrize(
    ("magic", "what"), [(b"PAR1\x15\x04", "Parquet data"), (b"PK\x03\x04", "a zip archive or an Excel file")]
)
def test_a_binary_file_with_the_name_of_a_text_is_told_what_it_is(write, name, magic, what):
    content = gzip.compress(magic) if name.endswith(".gz") else magic
    file = write(name, content)
    assert message(lambda: rows(file)).startswith(f"{file}: {what}, not text\n  fix: ")


def test_a_gz_that_is_no_gzip_and_a_gzip_without_gz_are_told(write):
    told = message(lambda: rows(write("a.jsonl.gz", b'{"text": "x"}\n')))
    assert "not a gzip file" in told and "rename it to a.jsonl" in told
    told = message(lambda: rows(write("a.jsonl", gzip.compress(b'{"text": "x"}\n'))))
    assert "gzip data, but the name does not end in .gz" in told and "rename it to a.jsonl.gz" in told


def test_a_file_that_cannot_be_read_is_an_error(tmp_path):
    assert "cannot be read (No such file" in message(lambda: rows(tmp_path / "none.jsonl"))
