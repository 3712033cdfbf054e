"""Files to rows: what is read, and where reading ends. Also: test_strict_json, test_encodings, test_tables."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from itertools import chain
from pathlib import Path

import pytest

from fettle.data.files import read_blocks
from fettle.data.rows import read_rows
from fettle.errors import UserError
from fettle.recipe.data import DataSpec
from reading import message, rows, texts


def some_rows_and_mistakes(file: Path, **how):
    """(lines of the rows, lines of the bad ones, what ended the file)."""
    mistakes: list[UserError] = []
    lines, end = [], None
    try:
        for row in read_rows(file, DataSpec(path=str(file), **how), mistakes.append):
            lines.append(row.line)
    except UserError as error:
        end = str(error).replace(f"{file}:", "")
    assert all(mistake.file == file for mistake in mistakes)
    return lines, [mistake.line for mistake in mistakes], end


# What is read


def test_jsonl_rows_know_their_lines_and_blank_lines_are_passed_over(write):
    assert rows(write("a.jsonl", '{"text": "1"}\n\n  \n{"text": "4"}')) == [(1, {"text": "1"}), (4, {"text": "4"})]


def test_json_rows_know_their_lines(write):
    file = write("a.json", '[\n  {"text": "2"}, {"text": "also 2"},\n\n  {"text":\n "4"}\n]\n')
    assert [line for line, _ in rows(file)] == [2, 2, 4]


def test_a_txt_file_is_one_document_or_one_a_line(write):
    file = write("a.txt", "first\r\n\nthird\n")
    assert rows(file) == [(1, {"text": "first\n\nthird\n"})]
    assert rows(file, split="lines") == [(1, {"text": "first"}), (3, {"text": "third"})]


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.JSON.GZ".lower(), "a.txt.gz", "a.csv.gz", "a.tsv.gz"])
def test_gzip_reads_like_the_file_it_holds(write, name):
    table = "text\nx\n"
    content = {
        "a.jsonl.gz": '{"text": "x"}\n',
        "a.json.gz": '[{"text": "x"}]',
        "a.txt.gz": "x",
        "a.csv.gz": table,
        "a.tsv.gz": table,
    }
    assert texts(write(name, content[name])) == ["x"]


def test_gzip_of_several_parts_is_read_to_its_end(write):
    parts = b"".join(gzip.compress(b'{"text": "%d"}\n' % i) for i in range(3))
    assert texts(write("a.jsonl.gz", parts)) == ["0", "1", "2"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.txt", "a.csv"])
def test_a_byte_order_mark_is_accepted(write, name):
    content = {"a.jsonl": '{"text": "x"}\n', "a.json": '[{"text": "x"}]', "a.txt": "x", "a.csv": '"text"\nx\n'}[name]
    assert texts(write(name, b"\xef\xbb\xbf" + content.encode())) == ["x"]


def test_crlf_ends_lines_too(write):
    assert rows(write("a.jsonl", '{"text": "1"}\r\n\r\n{"text": "3"}\r\n')) == [(1, {"text": "1"}), (3, {"text": "3"})]


@pytest.mark.parametrize("end", ["\u2028", "\u2029", "\u0085"])
def test_only_a_newline_ends_a_line(write, end):
    content = f'{{"text": "one{end}two"}}\n'
    assert texts(write("a.jsonl", content)) == [f"one{end}two"]
    assert texts(write("a.csv", f"text\none{end}two\n")) == [f"one{end}two"]
    assert texts(write("a.txt", f"one{end}two\x0b\x0cthree\n"), split="lines") == [f"one{end}two\x0b\x0cthree"]


def test_blocks_hold_all_lines_and_none_in_two_parts(write):
    content = b"".join(b"%d\n" % (i * 7919) for i in range(30_000)) + b"last"
    blocks = list(read_blocks(write("a.txt", content)))
    assert len(blocks) > 3 and b"".join(chain.from_iterable(blocks)) == content
    assert all(line.endswith(b"\n") for line in list(chain.from_iterable(blocks))[:-1])


def test_a_record_of_a_megabyte_is_read(write):
    long = "many words " * 100_000
    assert texts(write("a.jsonl", [{"text": "x"}, {"text": long}])) == ["x", long]
    assert texts(write("a.json", json.dumps([{"text": long}]))) == [long]
    assert texts(write("a.csv", f'text\n"{long}"\n')) == [long]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.txt", "a.jsonl.gz", "a.csv", "a.tsv"])
@pytest.mark.parametrize("content", ["", "\n \n"])
def test_an_empty_file_is_an_error(write, name, content):
    file = write(name, content if not name.endswith("sv") else content.replace(" ", ""))
    assert message(lambda: rows(file)) == f"{file}: the file is empty\n  expected: at least one record"


# LMFlow


def test_lmflow_rows_are_its_instances_with_their_lines(write):
    file = write("a.json", '{"type": "text2text", "instances": [\n{"input": "a", "output": "b"},\n{"input": "c"}]}\n')
    assert rows(file) == [(2, {"input": "a", "output": "b"}), (3, {"input": "c"})]


def test_lmflow_may_say_its_type_last_and_more_besides(write):
    file = write("a.json", '{"n": [{}],\n"instances" : [{"text": "x"}]\n, "type": "text_only", "m": {"k": 1}}')
    assert rows(file) == [(2, {"text": "x"})]


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("text_onyl", "type: unknown type 'text_onyl' (did you mean 'text_only'?)"),
        ("image_text", "type: instances of type image_text, which are not text alone"),
        ("float_only", "type: instances of type float_only, which are not text alone"),
    ],
)
def test_an_lmflow_type_that_is_not_read_is_an_error(write, kind, told):
    file = write("a.json", json.dumps({"type": kind, "instances": [{"text": "x"}]}))
    assert f"{file}:1: {told}\n  expected: text_only, text2text" in message(lambda: rows(file))


def test_an_lmflow_file_that_is_cut_off_is_an_error(write):
    file = write("a.json", '{"type": "text_only", "instances": [\n{"text": "x"},\n{"te')
    assert message(lambda: rows(file)).startswith(f"{file}:3: the file is cut off")


# Reading on, and what ends a file


def test_reading_goes_on_after_a_bad_line_where_mistakes_are_collected(write):
    file = write(
        "a.jsonl", b'{"text": "1"}\n{bad}\n{"text": "3"}\n[4]\n{"a":1,"a":2}\n"\xff"\n\n{"a": "\0"}\n{"text": "9"}\n'
    )
    assert some_rows_and_mistakes(file) == ([1, 3, 9], [2, 4, 5, 6, 8], None)


def test_reading_goes_on_after_an_item_of_a_json_list_that_is_no_good_object(write):
    file = write("a.json", '[{"text": "1"},\n2,\n{"text": 3, "text": 3},\n{"text": NaN},\n{"text": "5"}]')
    assert some_rows_and_mistakes(file) == ([1, 5], [2, 3, 4], None)


def test_reading_goes_on_after_a_bad_line_of_a_text(write):
    assert some_rows_and_mistakes(write("a.txt", b"one\n\xff\nthree"), split="lines") == ([1, 3], [2], None)


def test_bad_syntax_in_a_json_list_ends_it_after_the_rows_before(write):
    lines, mistakes, end = some_rows_and_mistakes(write("a.json", '[{"text": "1"},\n2,\n{"text": },\n{"text": "4"}]'))
    assert (lines, mistakes) == ([1], [2]) and end.startswith("3: not valid JSON at column 10")


@pytest.mark.parametrize("cut", [1, 9, 2000])
def test_a_torn_gzip_is_told_with_the_line_it_is_torn_after_and_the_rows_before_are_read(write, cut):
    packed = gzip.compress("".join(f'{{"text": "{i * 7919}"}}\n' for i in range(5000)).encode())
    lines, mistakes, end = some_rows_and_mistakes(write("a.jsonl.gz", packed[:-cut]))
    assert lines == list(range(1, len(lines) + 1)) and 3000 < len(lines) <= 5000 and not mistakes
    assert end.startswith(f"{len(lines) + 1}: the gzip file is cut off after line {len(lines)}")
    assert "fix: copy or download the file again" in end


def test_damaged_gzip_data_is_told(write):
    packed = bytearray(gzip.compress("".join(f'{{"text": "{i * 7919}"}}\n' for i in range(5000)).encode()))
    packed[-6] ^= 255  # of the checksum
    lines, mistakes, end = some_rows_and_mistakes(write("a.jsonl.gz", bytes(packed)))
    assert len(lines) == 5000 and not mistakes and end.startswith("5001: damaged gzip data")


def test_what_a_named_encoding_does_not_have_is_told_after_the_rows_before_it(write):
    content = b'{"text": "x"}\n' * 20_000 + b'{"text": "\x81"}\n'
    lines, bad, end = some_rows_and_mistakes(write("a.jsonl", content), encoding="cp1252")
    assert (len(lines), bad) == (20_000, [])
    assert end.startswith(f"20001: not cp1252 text: byte 0x81 at offset {14 * 20_000 + 10} after line 20000")


def test_a_utf_16_file_that_ends_in_half_a_character_is_an_error(write):
    content = '{"text": "x"}\n'.encode("utf-16") + b"\x00"
    assert some_rows_and_mistakes(write("a.jsonl", content), encoding="utf-16")[0] == [1]
    assert "not utf-16 text" in message(lambda: rows(write("a.jsonl", content), encoding="utf-16"))


# Memory


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.csv", "a.txt"])
def test_memory_stays_flat_however_long_the_file(write, name):
    line = {"a.jsonl": '{"text": "%s"}\n', "a.jsonl.gz": '{"text": "%s"}\n', "a.csv": "%s\n", "a.txt": "%s\n"}[name]
    file = write(name, line % "text" + (line % ("x" * 1000)) * 10_000)
    tracemalloc.start()
    assert sum(1 for _ in read_rows(file, DataSpec(path=name, split="lines"))) >= 10_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20  # of 10 MB; a block is 32 kB


# The real files


@pytest.mark.parametrize(
    ("file", "records"),
    [
        ("pretrain/stories_classic.jsonl", 209),
        ("pretrain/rust_book.jsonl", 112),
        ("sft/alpaca_en_demo.json", 999),
        ("sft/glaive_toolcall_en_demo.json", 300),
        ("sft/self_instruct_seed_tasks.jsonl", 175),
        ("sft/gpteacher_codegen.json", 4535),
        ("sft/summarise/scitldr_train.jsonl", 1992),
        ("sft/t0_prompt_completion.jsonl", 2400),
        ("preference/hh_harmless_test.jsonl", 2312),
        ("preference/hh_harmless_test.jsonl.gz", 2312),
        ("preference/kto_en_demo.json", 300),
        ("rlvr/humaneval.jsonl", 164),
        ("classify/banking77_train.csv", 10_003),  # its README counts the header too
        ("classify/banking77_test.csv", 3080),
    ],
)
def test_a_real_file_has_as_many_rows_as_its_readme_says(shared, file, records):
    assert len(rows(shared(f"data/{file}"))) == records


def test_a_real_file_read_fast_is_what_the_standard_library_reads(shared):
    for name in ("rlvr/humaneval.jsonl", "sft/v1_sft_demo.jsonl", "preference/hh_harmless_test.jsonl"):
        file = shared(f"data/{name}")
        lines = file.read_text(encoding="utf-8").split("\n")
        assert rows(file) == [(line, json.loads(text)) for line, text in enumerate(lines, 1) if text]
