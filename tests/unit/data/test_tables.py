"""CSV, TSV and Parquet to rows."""

from __future__ import annotations

import csv
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fettle.data.rows import complain, read_rows
from fettle.errors import UserError
from reading import rows


def message(file: Path, on_error=complain) -> str:
    with pytest.raises(UserError) as caught:
        rows(file, on_error)
    return str(caught.value).replace(f"{file}:", "")


def test_csv_rows_are_texts_under_the_header_with_their_lines(write):
    file = write("a.csv", 'text,label\r\none,1\r\n\r\n"two, and",\r\n')
    assert rows(file) == [(2, {"text": "one", "label": "1"}), (4, {"text": "two, and", "label": ""})]


def test_a_quoted_value_may_go_over_lines_and_hold_quotes(write):
    file = write("a.csv", 'text,label\n"one\ntwo ""three""\r\n\nfour",1\nfive,2\n')
    assert rows(file) == [
        (2, {"text": 'one\ntwo "three"\r\n\nfour', "label": "1"}),
        (6, {"text": "five", "label": "2"}),
    ]


def test_a_tsv_is_separated_by_tabs(write):
    assert rows(write("a.tsv", 'text\tlabel\none, "two"\tx\n')) == [(2, {"text": 'one, "two"', "label": "x"})]


def test_a_real_csv_is_what_the_standard_library_reads(shared):
    file = shared("data/classify/banking77_train.csv")
    with open(file, newline="", encoding="utf-8") as stream:
        assert [columns for _, columns in rows(file)] == list(csv.DictReader(stream))


def test_the_lines_of_a_real_csv_are_those_its_rows_begin_on(shared):
    file = shared("data/classify/banking77_test.csv")
    lines = file.read_text(encoding="utf-8").split("\n")
    for line, columns in rows(file):
        assert lines[line - 1].lstrip('"').startswith(columns["text"].split("\n")[0].split('"')[0].rstrip("\r"))


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("one", "1 column, but the header has 2"),
        ("one,two,three", "3 columns, but the header has 2"),
        ('"one"two,x', "text after a closing quote"),
        ("one\rtwo,x", "a bare carriage return outside quotes"),
    ],
)
def test_a_ragged_row_is_told_with_its_line_and_the_next_rows_follow(write, row, told):
    file = write("a.csv", f"text,label\na,b\n{row}\nc,d\n")
    assert message(file).startswith(f"3: {told}\n")
    mistakes: list[UserError] = []
    assert [line for line, _ in rows(file, mistakes.append)] == [2, 4]
    assert [(mistake.file, mistake.line) for mistake in mistakes] == [(file, 3)]


def test_a_ragged_row_is_told_with_the_columns_it_should_have(write):
    told = message(write("a.csv", "text,label\none, two, x\n"))
    assert "expected: text, label" in told and "double quotes" in told


def test_a_quote_that_is_never_closed_ends_the_file(write):
    mistakes: list[UserError] = []
    told = message(write("a.csv", 'text,label\na,b\n"c,d\ne,f\n'), mistakes.append)
    assert told.startswith("3: a quote opened in this row is never closed") and not mistakes


@pytest.mark.parametrize(
    ("name", "header", "told"),
    [
        ("a.csv", "text,text", "two columns are called 'text'"),
        ("a.csv", ",text", "column 1 has no name\n"),
        ("a.csv", "text,", "column 2 has no name\n"),
        ("a.csv", "text\tlabel", "the columns are separated by tabs\n"),
        ("a.csv", "text;label", "the columns are separated by semicolons\n"),
        ("a.tsv", "text,label", "the columns are separated by commas\n"),
        ("a.csv", '{"text": "x"}', "JSON, not a table\n"),
    ],
)
def test_a_header_that_cannot_be_used_is_told_with_its_fix(write, name, header, told):
    text = message(write(name, header + "\nx,y\n"))
    assert text.startswith(f"1: {told}") and "expected: a header" in text and "fix: " in text


def test_a_csv_with_a_header_alone_is_empty(write):
    assert "the file is empty" in message(write("a.csv", "text,label\n"))


def test_a_byte_that_is_not_utf_8_spoils_only_its_row(write):
    file = write("a.csv", b'text,label\na,b\n"one\ncaf\xe9\n",x\nc,d\n')
    assert message(file).startswith("4: not UTF-8 text: byte 0xe9 at offset 23")  # 11 + 4 + 5, then 3
    mistakes: list[UserError] = []
    assert [line for line, _ in rows(file, mistakes.append)] == [2, 6] and [found.line for found in mistakes] == [4]


def test_a_csv_may_be_in_a_named_encoding(write):
    assert rows(write("a.csv", "text\ncafé\n".encode("cp1252")), encoding="cp1252") == [(2, {"text": "café"})]
    assert rows(write("a.csv", "text\r\ncafé\r\n".encode("utf-16")), encoding="utf-16") == [(2, {"text": "café"})]


# Parquet


def parquet(folder: Path, columns: dict, **how) -> Path:
    file = folder / "a.parquet"
    pq.write_table(pa.table(columns), file, **how)
    return file


def test_parquet_rows_are_python_values_numbered_from_one(tmp_path):
    messages = [[{"role": "user", "content": "Hi"}], [{"role": "user", "content": "Bye"}]]
    file = parquet(tmp_path, {"messages": messages, "n": [1, 2], "good": [True, False]})
    assert rows(file) == [
        (1, {"messages": messages[0], "n": 1, "good": True}),
        (2, {"messages": messages[1], "n": 2, "good": False}),
    ]


def test_a_null_in_parquet_is_a_column_that_is_not_there(tmp_path):
    file = parquet(tmp_path, {"text": ["a", None], "label": [None, "x"]})
    assert rows(file) == [(1, {"text": "a"}), (2, {"label": "x"})]


def test_parquet_is_read_over_its_row_groups_in_order(tmp_path):
    file = parquet(tmp_path, {"text": [str(i) for i in range(1000)]}, row_group_size=300)
    assert rows(file) == [(i + 1, {"text": str(i)}) for i in range(1000)]


def test_dictionaries_of_labels_in_parquet_are_texts(tmp_path):
    file = parquet(tmp_path, {"label": pa.array(["x", "y", "x"]).dictionary_encode()})
    assert [columns["label"] for _, columns in rows(file)] == ["x", "y", "x"]


def test_an_empty_parquet_table_is_an_empty_file(tmp_path):
    assert "the file is empty" in message(parquet(tmp_path, {"text": pa.array([], pa.string())}))


def test_a_parquet_that_is_none_is_told(write):
    told = message(write("a.parquet", '{"text": "x"}\n'))
    assert "not a Parquet file: it begins with b'{\"te'" in told


def test_a_torn_parquet_is_told(tmp_path):
    file = parquet(tmp_path, {"text": [str(i) for i in range(1000)]})
    file.write_bytes(file.read_bytes()[:-100])
    assert "cut off or damaged" in message(file) and "fix: copy or download the file again" in message(file)


def test_damage_inside_parquet_is_told_after_the_rows_before_it(tmp_path):
    file = parquet(tmp_path, {"text": [str(i) for i in range(2000)]}, row_group_size=1000, compression="snappy")
    raw = bytearray(file.read_bytes())
    place = pq.ParquetFile(file).metadata.row_group(1).column(0).dictionary_page_offset
    raw[place : place + 200] = b"\xff" * 200
    file.write_bytes(bytes(raw))
    found = []
    with pytest.raises(UserError, match=r"cut off or damaged after row \d+") as caught:
        found.extend(row.line for row in read_rows(file))
    assert 700 < len(found) <= 1000 and caught.value.line == len(found) + 1


def test_two_parquet_columns_of_one_name_are_an_error(tmp_path):
    file = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_arrays([pa.array(["x"]), pa.array(["y"])], names=["text", "text"]), file)
    assert "two columns are called 'text'" in message(file)
