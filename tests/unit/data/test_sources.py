"""Paths to files, and files to rows: what is accepted, and the one clear message for what is not."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from fettle.data.files import read_lines
from fettle.data.rows import complain, read_places, read_rows
from fettle.data.sources import find_files, open_source, read_source
from fettle.errors import UserError
from fettle.recipe.data import DataSpec


def rows(file: Path, on_error=complain, **how):
    return [(row.line, row.columns) for row in read_rows(file, DataSpec(path=str(file), **how), on_error)]


def message(call) -> str:
    with pytest.raises(UserError) as caught:
        call()
    return str(caught.value)


def test_a_folder_means_its_data_files_to_the_bottom_and_tells_what_it_passes_over(write):
    folder = write("b.jsonl", [{"text": "b"}]).parent
    write("deep/a.txt.gz", "a")
    write("README.md", "not data")
    write(".hidden.jsonl", "not data")
    assert [file.name for file in find_files(folder)] == ["b.jsonl", "a.txt.gz"]
    assert [file.name for file in open_source(DataSpec(path=str(folder)), Path).passed_over] == ["README.md"]


def test_a_glob_means_the_files_it_matches_in_the_order_of_their_names(write):
    folder = write("2.txt", "two").parent
    write("1.txt", "one")
    assert [file.name for file in find_files(folder / "*.txt")] == ["1.txt", "2.txt"]


def test_a_file_whose_name_looks_like_a_glob_is_a_file(write):
    assert find_files(write("data[1].txt", "x"))[0].name == "data[1].txt"


def test_a_missing_file_is_told_with_the_nearest_name(write):
    file = write("train.jsonl", [{"text": "x"}])
    told = message(lambda: find_files(file.with_name("trian.jsonl")))
    assert told == f"{file.with_name('trian.jsonl')}: no such file or folder (did you mean 'train.jsonl'?)"


def test_a_missing_file_of_a_recipe_is_told_at_the_recipes_line(tmp_path):
    where = {"file": "recipe.yaml", "line": 7, "field": "stages.sft.data"}
    told = message(lambda: find_files(tmp_path / "none.txt", **where))
    assert told.startswith(f"recipe.yaml:7: stages.sft.data: {tmp_path / 'none.txt'}: no such file")


def test_a_glob_that_matches_nothing_is_an_error(tmp_path):
    assert "no file matches" in message(lambda: find_files(tmp_path / "*.jsonl"))


def test_an_empty_folder_is_an_error_that_lists_the_suffixes(tmp_path):
    told = message(lambda: find_files(tmp_path))
    assert "no data file in this folder" in told and ".jsonl, .json, .txt, each also with .gz" in told


def test_an_unknown_suffix_is_an_error_that_lists_the_known_ones(write):
    told = message(lambda: find_files(write("data.parquet", "x")))
    assert "unknown suffix '.parquet'" in told and ".jsonl, .json, .txt" in told


def test_jsonl_rows_know_their_lines_and_blank_lines_are_passed_over(write):
    assert rows(write("a.jsonl", '{"text": "1"}\n\n  \n{"text": "4"}')) == [(1, {"text": "1"}), (4, {"text": "4"})]


def test_json_rows_know_their_lines(write):
    file = write("a.json", '[\n  {"text": "2"}, {"text": "also 2"},\n\n  {"text":\n "4"}\n]\n')
    assert [line for line, _ in rows(file)] == [2, 2, 4]


def test_a_txt_file_is_one_document_or_one_a_line(write):
    file = write("a.txt", "first\r\n\nthird\n")
    assert rows(file) == [(1, {"text": "first\n\nthird\n"})]
    assert rows(file, split="lines") == [(1, {"text": "first"}), (3, {"text": "third"})]


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.JSON.GZ".lower(), "a.txt.gz"])
def test_gzip_reads_like_the_file_it_holds(write, name):
    content = {"a.jsonl.gz": '{"text": "x"}\n', "a.json.gz": '[{"text": "x"}]', "a.txt.gz": "x"}[name]
    assert rows(write(name, content)) == [(1, {"text": "x"})]


def test_a_byte_order_mark_is_accepted(write):
    assert rows(write("a.jsonl", b'\xef\xbb\xbf{"text": "x"}\n')) == [(1, {"text": "x"})]


def test_only_a_newline_ends_a_line(write):
    file = write("a.jsonl", '{"text": "one\u2028two"}\n')
    assert [number for number, _ in read_lines(file)] == [1]
    assert rows(file) == [(1, {"text": "one\u2028two"})]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.txt", "a.jsonl.gz"])
@pytest.mark.parametrize("content", ["", "\n \n"])
def test_an_empty_file_is_an_error(write, name, content):
    file = write(name, content)
    assert message(lambda: rows(file)) == f"{file}: the file is empty\n  expected: at least one record"


def test_a_truncated_last_line_is_told_with_its_end(write):
    file = write("a.jsonl", '{"text": "whole"}\n{"text": "cut off in the mid')
    told = message(lambda: rows(file))
    assert told.startswith(f'{file}:2: the line is cut off; it ends with `{{"text": "cut off in the mid`')
    assert "fix: copy or download the file again" in told


@pytest.mark.parametrize("end", ['{"text": "a"}, {"te', '{"text": "a"},', '{"text": "a"}', '{"text": "a"}, {"text": '])
def test_a_truncated_json_file_is_told_with_its_line(write, end):
    file = write("a.json", "[\n" + end)
    assert message(lambda: rows(file)).startswith(f"{file}:2: the file is cut off; it ends with `")


def test_invalid_json_is_told_with_its_column_and_surroundings(write):
    file = write("a.jsonl", '{"text": "x"}\n{"text": "a" "b"}\n')
    assert message(lambda: rows(file)).startswith(
        f'{file}:2: not valid JSON at column 14: expecting \',\' delimiter, near `{{"text": "a" ⟨here⟩"b"}}`'
    )


def test_nan_is_not_json(write):
    assert "NaN is not a JSON value" in message(lambda: rows(write("a.jsonl", '{"text": NaN}\n')))


def test_deep_nesting_is_told_not_crashed_on(write):
    assert ":1: nested too deeply" in message(lambda: rows(write("a.jsonl", "[" * 100_000)))


def test_reading_goes_on_after_a_bad_line_where_mistakes_are_collected(write):
    file = write("a.jsonl", '{"text": "1"}\n{bad}\n{"text": "3"}\n[4]\n')
    mistakes: list[UserError] = []
    assert [line for line, _ in rows(file, on_error=mistakes.append)] == [1, 3]
    assert [mistake.line for mistake in mistakes] == [2, 4]


@pytest.mark.parametrize(("line", "what"), [("[1]", "a list"), ("3", "a number"), ('"x"', "text"), ("null", "null")])
def test_a_line_that_is_no_object_is_an_error(write, line, what):
    file = write("a.jsonl", '{"text": "x"}\n' + line + "\n")
    told = message(lambda: rows(file))
    assert told.startswith(f"{file}:2: {what}, not an object\n  expected: one JSON object a line")


def test_a_json_list_in_a_jsonl_file_is_told_to_be_renamed(write):
    assert "fix: rename the file to .json" in message(lambda: rows(write("a.jsonl", '[{"text": "x"}]')))


def test_json_lines_in_a_json_file_are_told_to_be_renamed(write):
    told = message(lambda: rows(write("a.json", '{"text": "x"}\n{"text": "y"}\n')))
    assert "an object, not a list" in told and "fix: it holds one object a line: rename it to .jsonl" in told


def test_a_list_inside_an_object_is_told_to_be_taken_out(write):
    told = message(lambda: rows(write("a.json", '{"version": 1, "rows": [{"text": "x"}]}')))
    assert 'fix: keep only the list under "rows"' in told


def test_text_after_a_json_list_is_an_error(write):
    file = write("a.json", '[{"text": "x"}]\n[1]')
    assert message(lambda: rows(file)) == f"{file}:2: more text after the list's end: `[1]`"


def test_latin_1_is_told_with_line_and_offset(write):
    file = write("a.jsonl", b'{"text": "x"}\n{"text": "caf\xe9"}\n')
    told = message(lambda: rows(file))
    assert told.startswith(f"{file}:2: not UTF-8 text: byte 0xe9 at offset 27")  # 14 bytes of line 1, then 13
    assert "iconv -f WINDOWS-1252 -t UTF-8" in told


def test_latin_1_in_a_json_file_and_in_a_text_is_told_with_its_line(write):
    assert ":2: not UTF-8 text" in message(lambda: rows(write("a.json", b'[{"text":\n"caf\xe9"}]')))
    assert ":3: not UTF-8 text" in message(lambda: rows(write("a.txt", b"one\ntwo\ncaf\xe9")))


def test_utf_16_is_named(write):
    told = message(lambda: rows(write("a.jsonl", '{"text": "x"}\n'.encode("utf-16"))))
    assert "UTF-16 text, not UTF-8" in told and "iconv -f UTF-16" in told


def test_a_torn_gzip_is_told_with_the_line_it_is_torn_after(write):
    packed = gzip.compress("".join(f'{{"text": "{i * 7919}"}}\n' for i in range(5000)).encode())
    file = write("a.jsonl.gz", packed[:-2000])
    told = message(lambda: rows(file))
    assert "the gzip file is cut off after line " in told and "fix: copy or download the file again" in told


def test_a_gz_that_is_no_gzip_and_a_gzip_without_gz_are_told(write):
    assert "not a gzip file" in message(lambda: rows(write("a.jsonl.gz", b'{"text": "x"}\n')))
    told = message(lambda: rows(write("a.jsonl", gzip.compress(b'{"text": "x"}\n'))))
    assert "gzip data, but the name does not end in .gz" in told


def test_a_source_reads_its_files_one_after_the_other(write):
    folder = write("1.jsonl", [{"text": "a"}, {"text": "b"}]).parent
    write("2.txt", "c")
    read = read_source(open_source(DataSpec(path="*.*"), lambda path: folder / path))
    assert [record.text for record in read] == ["a", "b", "c"]


def test_places_of_a_huge_file_have_their_true_lines(write):
    file = write("a.jsonl", [{"text": f"{i:04}"} for i in range(1, 2001)])
    sample = [(row.line, int(row.columns["text"])) for row in read_places(file, DataSpec(path=str(file)), window=500)]
    assert all(line == number for line, number in sample)
    assert sample[0][0] == 1 and sample[-1][0] == 2000 and 60 < len(sample) < 200
