"""What is not strict JSON is one clear message with its place, in lines and in lists."""

from __future__ import annotations

import json

import pytest

from reading import message, rows, texts


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


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize(("name", "around"), [("a.jsonl", "{}\n"), ("a.json", "[{}]")])
def test_nan_is_not_json(write, value, name, around):
    file = write(name, around.format(f'{{"text": {value}}}'))
    assert message(lambda: rows(file)).startswith(f"{file}:1: not valid JSON: {value} is not a JSON value")


def test_a_number_without_end_is_an_error(write):
    assert "the number 1e999 is too large" in message(lambda: rows(write("a.jsonl", '{"text": 1e999}\n')))


@pytest.mark.parametrize(
    "line", ['{"a": 1,}', "{'a': 1}", '{"a": 01}', '{"a": 1} // x', '{"a": 1}{"b": 2}', '{"a": "\t"}']
)
def test_almost_json_is_an_error(write, line):
    assert ":2: not valid JSON at column " in message(lambda: rows(write("a.jsonl", '{"a": 1}\n' + line + "\n")))


def test_deep_nesting_is_told_not_crashed_on(write):
    assert ":2: nested too deeply" in message(lambda: rows(write("a.jsonl", "{}\n" + '{"a":' * 100_000)))
    assert ":1: nested too deeply" in message(lambda: rows(write("a.json", "[" + '{"a":' * 100_000)))
    assert ":1: nested too deeply" in message(lambda: rows(write("a.json", '{"a":' * 100_000)))


@pytest.mark.parametrize(("name", "around"), [("a.jsonl", "{}\n"), ("a.json", "[{}]")])
@pytest.mark.parametrize("escaped", ["\\ud800", "\\udc00 and more", "\\uD83Dx"])
def test_half_a_surrogate_pair_is_an_error(write, name, around, escaped):
    file = write(name, around.format(f'{{"text": "{escaped}"}}'))
    told = message(lambda: rows(file))
    assert told == f"{file}:1: half of a surrogate pair ({escaped[:6].lower()}), which is no character"


@pytest.mark.parametrize(("name", "around"), [("a.jsonl", "{}\n"), ("a.json", "[{}]")])
def test_a_whole_surrogate_pair_and_an_escaped_backslash_are_fine(write, name, around):
    assert texts(write(name, around.format('{"text": "\\ud83d\\ude00 \\\\ud800"}'))) == ["😀 \\ud800"]


TWINS = [
    '{"text": "a", "text": "b"}',
    '{"a": 1, "text" : "a", "text"\t: "b"}',
    '{"text"  :"a","x":"a\\" : 1","text":"b"}',
    '{"m": [{"text": "a", "x": ": 1", "text": "a"}]}',
    '{"a\\\\": 1, "text": 1, "text": 2}',
    '{"\\"": 1, "text": 1, "text": 2}',
    '{"t": {"text": 1, "\\u0074ext": 2}, "x": "{\\"a\\": 1}"}',
]


@pytest.mark.parametrize("line", TWINS)
@pytest.mark.parametrize("others", [[], ['{"x": "say \\"a\\": 1"}'] * 3, ['{"": ":\\""}'] * 200])
def test_a_key_that_is_there_twice_is_told_with_its_line_however_it_is_written(write, line, others):
    file = write("a.jsonl", "\n".join([*others, line, *others]) + "\n")
    told = message(lambda: rows(file))
    assert told == f"{file}:{len(others) + 1}: the key 'text' is there twice"
    file = write("a.json", "[" + ",\n".join([*others, line]) + "]")
    assert message(lambda: rows(file)).startswith(f"{file}:{len(others) + 1}: the key 'text' is there twice")


@pytest.mark.parametrize(
    "line",
    [
        '{"text": "a \\"quoted\\": word"}',
        '{"text" : ": ", "b"\t:{"text": ":"}}',
        '{"text": "\\"", "b": "\\\\", "c\\\\": "\\\\\\":"}',
        '{"":1}',
        '{"a":{"a":[{"a":"\\":"},[{"a":null}]]}}',
        '{"text": "bonjour : \\" :  :"}',
    ],
)
def test_what_looks_like_a_key_in_a_text_is_none(write, line):
    assert rows(write("a.jsonl", f"{line}\n{{}}\n")) == [(1, json.loads(line)), (2, {})]


@pytest.mark.parametrize(("line", "what"), [("[1]", "a list"), ("3", "a number"), ('"x"', "text"), ("null", "null")])
def test_a_line_that_is_no_object_is_an_error(write, line, what):
    file = write("a.jsonl", '{"text": "x"}\n' + line + "\n")
    told = message(lambda: rows(file))
    assert told.startswith(f"{file}:2: {what}, not an object\n  expected: one JSON object a line")


def test_a_list_inside_an_object_is_told_to_be_taken_out(write):
    told = message(lambda: rows(write("a.json", '{"version": 1, "rows": [{"text": "x"}]}')))
    assert 'fix: keep only the list under "rows"' in told


def test_text_after_a_json_list_is_an_error(write):
    file = write("a.json", '[{"text": "x"}]\n[1]')
    assert message(lambda: rows(file)) == f"{file}:2: more text after the list's end: `[1]`"
