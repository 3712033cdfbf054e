"""Records read and encoded one by one: the very examples that reading the file from its top gives."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerBase

from fettle.data import line_index
from fettle.data import stream as stream_module
from fettle.data.encode import Example, encode
from fettle.data.line_index import LineIndex, StreamedSource, check_indexable, fill_index
from fettle.data.mix import Cursor, Mix, Step, steps_of
from fettle.data.sources import OpenSource, read_source
from fettle.data.stream import Stream
from fettle.data.tokens import TokenSet, content_hash, write_tokens
from fettle.errors import UserError
from fettle.recipe.data import DataSpec

LENGTH = 24
MakeStream = Callable[..., Stream]
Plain = list[tuple[list[int], list[bool]]]


def chat(number: int, size: int = 3) -> dict[str, Any]:
    turns = [{"role": "user", "content": f"{number}?"}, {"role": "assistant", "content": "a" * size}]
    return {"messages": turns}


def index_of(file: Path, folder: Path) -> LineIndex:
    folder.mkdir(parents=True)
    fill_index(folder, file)
    return LineIndex(file, folder)


@pytest.fixture
def open_stream(tmp_path: Path, chatml: PreTrainedTokenizerBase) -> MakeStream:
    """`open_stream(*files, max_length=…, on_error=…, without=…, **keys of the source)`."""

    def make(
        *files: Path, max_length: int = 200, on_error: Any = None, without: Sequence[int] = (), **keys: Any
    ) -> Stream:
        folders = [tmp_path / "indexes" / file.name for file in files]
        for file, folder in zip(files, folders, strict=True):
            if not folder.is_dir():
                index_of(file, folder)
        source = StreamedSource(DataSpec(path="x", **keys), files, tuple(folders))

        def fail(error: UserError) -> None:
            raise error

        return Stream(source, chatml, max_length=max_length, on_long="cut", on_error=on_error or fail, without=without)

    return make


def plain(examples: Sequence[Example]) -> Plain:
    return [(one.input_ids.tolist(), one.loss_mask.tolist()) for one in examples]


def everything(stream: Stream, order: Sequence[int] | None = None) -> dict[int, Plain]:
    """The examples of every record, asked for in an order."""
    left = np.asarray(range(len(stream)) if order is None else order)
    found = {}
    while len(left):
        taken = stream.take(left)
        found |= {int(place): plain(examples) for place, examples in zip(left, taken, strict=False)}
        left = left[len(taken) :]
    return found


def from_the_top(tokenizer: PreTrainedTokenizerBase, *files: Path, max_length: int = 200, **keys: Any) -> Plain:
    records = read_source(OpenSource(DataSpec(path="x", **keys), files))
    return plain(list(encode(records, tokenizer, max_length=max_length)))


@pytest.mark.parametrize("chunk", [1, 7, 64, 1 << 20])
@pytest.mark.parametrize("end", ["", "\n"])
def test_an_index_has_every_line_that_is_not_empty_with_its_number(write, tmp_path, monkeypatch, chunk, end):
    monkeypatch.setattr(line_index, "_CHUNK_BYTES", chunk)
    lines = ["", "a", "", "", "bb\r", "\r", " ", "c" * 20, "", "d"]
    index = index_of(write("x.txt", "\n".join(lines) + end), tmp_path / "index")
    found = {number: raw.split(b"\n")[0].decode() for number, _, raw in index.read(np.arange(len(index)))}
    assert found == {number: line for number, line in enumerate(lines, 1) if line.strip("\r")}


def test_an_index_reads_any_lines_in_any_order(write, tmp_path):
    file = write("x.txt", "".join(f"line {number}\n" for number in range(100)))
    index = index_of(file, tmp_path / "index")
    order = np.asarray([99, 0, 42, 7])
    assert [(number, raw) for number, _, raw in index.read(order)] == [
        (number + 1, f"line {number}\n".encode()) for number in order
    ]
    assert index.sizes(order).tolist() == [8, 7, 8, 7]


def test_a_file_that_has_changed_since_is_an_error(write, tmp_path):
    file = write("x.txt", "a\nb\n")
    index_of(file, tmp_path / "index")
    file.write_text("a\nb\nc\n")
    with pytest.raises(UserError, match=r"x\.txt: the file has changed"):
        LineIndex(file, tmp_path / "index")


def test_an_empty_file_has_no_lines(write, tmp_path):
    assert len(index_of(write("x.jsonl", ""), tmp_path / "index")) == 0


@pytest.mark.parametrize("name", ["x.jsonl.gz", "x.json", "x.csv", "x.parquet", "x.txt"])
def test_what_is_not_lines_is_refused_with_what_to_do(name):
    with pytest.raises(UserError, match="cannot be streamed") as told:
        check_indexable([Path(name)], DataSpec(path=name), "stages.task.data")
    assert name in str(told.value) and "fix:" in str(told.value)


def test_text_whose_lines_do_not_end_in_one_byte_is_refused():
    with pytest.raises(UserError, match="utf-16 text cannot be streamed"):
        check_indexable([Path("x.jsonl")], DataSpec(path="x.jsonl", encoding="utf-16"), "stages.task.data")


def test_lines_of_text_and_objects_are_taken():
    check_indexable([Path("x.jsonl")], DataSpec(path="x.jsonl", encoding="latin-1"), "stages.task.data")
    check_indexable([Path("x.txt")], DataSpec(path="x.txt", split="lines"), "stages.task.data")


def test_in_any_order_each_record_has_the_examples_that_reading_from_the_top_gives(write, open_stream, chatml):
    files = [
        write("a.jsonl", [chat(number, size=number) for number in range(30)]),
        write("b.jsonl", [{"prompt": f"{number}", "completion": "yes"} for number in range(20)]),
    ]
    order = random.Random(0).sample(range(50), 50)
    found = everything(open_stream(*files), order)
    assert [one for place in range(50) for one in found[place]] == from_the_top(chatml, *files)


def test_lines_of_text_are_split_into_the_same_parts(write, open_stream, chatml):
    lines = ["once", "", "upon a time " * 5, "ü" * 30, "   ", "the end"]
    file = write("x.txt", "\n".join(lines))
    found = everything(open_stream(file, max_length=LENGTH, split="lines"))
    assert [one for parts in found.values() for one in parts] == from_the_top(
        chatml, file, max_length=LENGTH, split="lines"
    )
    assert [len(parts) for parts in found.values()] == [1, 3, 3, 0, 1]


def test_other_encodings_and_byte_order_marks_are_read(write, open_stream, chatml):
    rows = "".join(json.dumps(chat(n, 2) | {"note": "é"}, ensure_ascii=False) + "\n" for n in range(3))
    latin = write("latin.jsonl", rows.encode("latin-1"))
    marked = write("marked.jsonl", b"\xef\xbb\xbf" + rows.encode())
    assert everything(open_stream(latin, encoding="latin-1")) == everything(open_stream(marked))


def test_a_line_that_is_not_in_the_named_encoding_is_a_bad_record(write, open_stream):
    rows = json.dumps(chat(1)) + "\n"
    stream = open_stream(write("x.jsonl", rows.encode() + b'{"text": "\x81"}\n'), encoding="cp1252")
    with pytest.raises(UserError, match=r"x\.jsonl:2: not .* text: byte 0x81"):
        stream.take(np.asarray([1]))


def test_the_first_row_decides_the_format_wherever_reading_begins(write, open_stream):
    rows = [{"prompt": "a", "completion": "b"}] * 5 + [{"prompt": "a", "answer": "b"}]
    stream = open_stream(write("x.jsonl", rows))
    with pytest.raises(UserError) as told:
        stream.take(np.asarray([5]))
    assert told.value.line == 6


def test_a_bad_record_has_its_line_and_is_an_error_or_left_out(write, open_stream):
    text = json.dumps(chat(1)) + "\n\n{broken\n" + json.dumps(chat(2)) + "\n"
    file = write("x.jsonl", text)
    with pytest.raises(UserError, match=r"x\.jsonl:3: "):
        open_stream(file).take(np.asarray([1]))
    told: list[UserError] = []
    found = everything(open_stream(file, on_error=told.append))
    assert [len(examples) for examples in found.values()] == [1, 0, 1]
    assert {error.line for error in told} == {3}


def test_the_limit_counts_records_not_lines(write, open_stream):
    text = "".join("\n" + json.dumps(chat(number)) + "\n" for number in range(10))
    assert len(open_stream(write("x.jsonl", text), limit=4)) == 4


def test_what_is_held_out_is_left_out(write, open_stream):
    file = write("x.jsonl", [chat(number) for number in range(10)])
    (out,) = open_stream(file).take(np.asarray([3]))[0]
    found = everything(open_stream(file, without=[content_hash(out)]))
    assert [place for place, examples in found.items() if not examples] == [3]


def test_the_beginning_is_of_so_many_bytes_over_all_files(write, open_stream):
    files = [write(f"{name}.jsonl", [chat(number) for number in range(9)]) for name in "ab"]
    size = files[0].stat().st_size
    stream = open_stream(*files)
    assert [len(list(stream.beginning(count))) for count in (1, size, size + 1, 10 * size)] == [1, 9, 10, 18]


def test_so_many_bytes_are_taken_at_a_time_and_at_least_one_record(write, open_stream, monkeypatch):
    monkeypatch.setattr(stream_module, "_WINDOW_BYTES", 1000)
    stream = open_stream(write("x.jsonl", [{"text": "a" * 400}] * 4 + [{"text": "b" * 1500}]), max_length=2000)
    assert len(stream.take(np.arange(5))) == 2
    assert len(stream.take(np.asarray([4, 0]))) == 1


@pytest.mark.parametrize("how", [{"tokens": 90}, {"sequences": 5}])
def test_from_any_steps_cursor_on_the_stream_goes_on_with_the_very_next_example(write, open_stream, how):
    given = random.Random(0)
    files = [
        write("lines.txt", "".join("once upon " * given.randint(0, 9) + f"{n}\n\n" for n in range(25))),
        write("chats.jsonl", [chat(number, given.randint(1, 60)) for number in range(7)]),
    ]

    def steps(cursor: Cursor | None = None) -> Iterator[Step[Example]]:
        streams = [open_stream(file, max_length=LENGTH, split="lines") for file in files]  # a resumed run opens anew
        mix = Mix(streams, (1.0, 0.4), 7, lambda one: len(one.input_ids), cursor)
        return islice(steps_of(mix, **({"tokens": None, "sequences": None} | how)), 60)

    whole = [(plain(step.examples), step.after) for step in steps()]
    assert whole[-1][1].passes[0] > 1 and any(cursor.parts[0] for _, cursor in whole)
    for number, (_, cursor) in enumerate(whole[:40]):
        rest = [plain(step.examples) for step in islice(steps(cursor), 10)]
        assert rest == [examples for examples, _ in whole[number + 1 : number + 11]]


@pytest.mark.parametrize("how", [{"tokens": 300}, {"sequences": 7}])
def test_streamed_and_encoded_beforehand_are_the_same_steps(write, open_stream, chatml, tmp_path, how):
    given = random.Random(0)
    files = [
        [write("chats.jsonl", [chat(number, given.randint(1, 60)) for number in range(40)])],
        [
            write(f"qa-{part}.jsonl", [{"prompt": f"{part}{n}", "completion": "y" * n} for n in range(1, 9)])
            for part in "ab"
        ],
        [write("lines.txt", "".join("once upon " * given.randint(1, 9) + f"{n}\n" for n in range(25)))],
    ]
    keys: list[dict[str, Any]] = [{}, {}, {"split": "lines"}]
    streams = [open_stream(*each, **key) for each, key in zip(files, keys, strict=True)]
    encoded = []
    for number, (each, key) in enumerate(zip(files, keys, strict=True)):
        records = read_source(OpenSource(DataSpec(path="x", **key), tuple(each)))
        encoded.append(Whole(write_tokens(tmp_path / str(number), encode(records, chatml, max_length=200))))

    def steps(sources: Any, cursor: Any = None) -> list[Plain]:
        mix = Mix(sources, (1.0, 0.5, 0.3), 7, lambda one: len(one.input_ids), cursor)
        given = {"tokens": None, "sequences": None} | how
        told = steps_of(mix, **given)
        return [(plain(step.examples), step.after) for step, _ in zip(told, range(30), strict=False)]

    assert steps(streams) == steps(encoded)


class Whole:
    """A token set as a mix draws it."""

    def __init__(self, tokens: TokenSet) -> None:
        self.tokens = tokens

    def __len__(self) -> int:
        return len(self.tokens)

    def take(self, positions: np.ndarray) -> list[list[Any]]:
        return [[self.tokens[place]] for place in positions.tolist()]
