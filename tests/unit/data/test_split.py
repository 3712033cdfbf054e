"""Records split into training, held-out and test files: nothing leaks, nothing is lost, nothing is overwritten."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from fettle.data.check import inspect_sources
from fettle.data.split import split
from fettle.errors import UserError
from fettle.recipe.data import DataSpec

PAIRS = [{"prompt": f"What is {i}?", "completion": f"{i}", "id": i} for i in range(100)]


def rows(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().split("\n") if line]


def did_split(out: Path, *files: Path, **keys):
    """(records of each written file by its stem, what `split` returned)."""
    reading = {key: keys.pop(key) for key in ("format", "columns", "split", "limit", "on_bad_record") if key in keys}
    done = split([DataSpec(path=str(file), **reading) for file in files], Path, out, **keys)
    return {file.stem: rows(file) for file in done.files}, done


def test_every_row_is_in_one_file_as_it_was_and_the_numbers_are_those_asked_for(write, tmp_path):
    written, done = did_split(tmp_path / "out", write("a.jsonl", PAIRS), heldout=0.1, test=5)
    assert {name: len(found) for name, found in written.items()} == {"train": 85, "heldout": 10, "test": 5}
    assert sorted((row for found in written.values() for row in found), key=lambda row: row["id"]) == PAIRS
    assert list(done.files.values()) == [85, 10, 5]
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["heldout.jsonl", "test.jsonl", "train.jsonl"]


def test_rows_keep_their_order(write, tmp_path):
    written, _ = did_split(tmp_path / "out", write("a.jsonl", PAIRS), heldout=10)
    assert all([row["id"] for row in found] == sorted(row["id"] for row in found) for found in written.values())


def test_the_same_records_are_held_out_whatever_their_order_and_files(write, tmp_path):
    one, _ = did_split(tmp_path / "one", write("a.jsonl", PAIRS), heldout=10)
    shuffled = random.Random(1).sample(PAIRS, len(PAIRS))
    two, _ = did_split(tmp_path / "two", write("b.jsonl", shuffled[:30]), write("c.jsonl", shuffled[30:]), heldout=10)
    assert {row["id"] for row in one["heldout"]} == {row["id"] for row in two["heldout"]}


HE = "Who is he?"
CHATS = [
    [{"role": "system", "content": f"{i}"}, {"role": "user", "content": HE}, {"role": "assistant", "content": f"{i}"}]
    for i in range(4)
]


@pytest.mark.parametrize(
    "alike",
    [
        [{"prompt": "Who is  HE?", "completion": f"{i}"} for i in range(4)],
        [{"prompt": chat[1:2], "completion": chat[2:]} for chat in CHATS],
        [{"messages": chat} for chat in CHATS],
        [{"prompt": HE, "chosen": f"{i}", "rejected": "x"} for i in range(4)],
        [{"text": HE, "id": i} for i in range(4)],
    ],
    ids=["prompt_completion", "as messages", "messages", "preference", "text"],
)
@pytest.mark.parametrize("heldout", [1, 2, 3, 4, 5, 6])
def test_equal_questions_fall_on_the_same_side(write, tmp_path, alike, heldout):
    def other(value, i):
        """The row with another question."""
        return json.loads(json.dumps(value).replace("Who is  HE?", HE).replace(HE, f"Q{i}"))

    file = write("a.jsonl", alike + [other(alike[0], i) for i in range(6)])
    written, _ = did_split(tmp_path / "out", file, heldout=heldout)
    same = [sum("Who is" in json.dumps(row) for row in found) for found in written.values()]
    assert sorted(same) == [0, 4]
    assert len(written["heldout"]) <= heldout


def test_held_out_data_shares_nothing_with_training_data(write, tmp_path):
    draw = random.Random(0)
    words = ["tide", "lamp", "ferry", "stone", "amber", "quay", "wren", "mill"]
    texts = [" ".join(draw.choices(words, k=30)) for _ in range(50)]
    file = write("a.jsonl", [{"text": said} for said in texts + [said.upper() for said in texts]])
    _, done = did_split(tmp_path / "out", file, heldout=0.2)
    train, held = (DataSpec(path=str(path)) for path in done.files)
    overlap = inspect_sources([train], Path, heldout=[held]).overlap
    assert (overlap.records, overlap.equal, overlap.near) == (20, 0, 0)


def test_labels_keep_their_shares_and_none_is_missing_from_training(write, tmp_path):
    labels = ["a"] * 60 + ["b"] * 30 + ["c"] * 9 + ["d"]
    text = "text,label\n" + "".join(f"number {i},{label}\n" for i, label in enumerate(labels))
    written, _ = did_split(tmp_path / "out", write("a.csv", text), heldout=0.2)
    counts = {
        name: [sum(row["label"] == label for row in found) for label in "abcd"] for name, found in written.items()
    }
    assert counts == {"train": [48, 24, 7, 1], "heldout": [12, 6, 2, 0]}


def test_without_stratifying_labels_are_left_to_chance(write, tmp_path):
    text = "text,label\n" + "".join(f"number {i},{'ab'[i % 2]}\n" for i in range(100))
    written, _ = did_split(tmp_path / "out", write("a.csv", text), heldout=10, stratify=False)
    assert len(written["heldout"]) == 10


def test_stratifying_needs_labels(write, tmp_path):
    with pytest.raises(UserError, match="not every record has a label"):
        did_split(tmp_path / "out", write("a.jsonl", PAIRS), heldout=10, stratify=True)


def test_lines_of_a_text_are_split_and_a_document_is_not(write, tmp_path):
    file = write("a.txt", "".join(f"Line {i}.\n" for i in range(10)))
    with pytest.raises(UserError, match=r"a.txt: one record cannot be split\n  fix: with --set split=lines"):
        did_split(tmp_path / "out", file, heldout=0.1)
    written, _ = did_split(tmp_path / "out", file, heldout=0.1, split="lines")
    assert (len(written["train"]), len(written["heldout"])) == (9, 1)


def test_several_documents_are_split_by_document(write, tmp_path):
    files = [write(f"{i}.txt", f"Book {i}.\n") for i in range(5)]
    written, _ = did_split(tmp_path / "out", *files, heldout=2)
    assert len(written["heldout"]) == 2


def test_rows_of_a_table_keep_their_columns(write, tmp_path):
    written, _ = did_split(tmp_path / "out", write("a.csv", "q,a,n\n1,2,3\n4,5,6\n"), heldout=1,
                           format="prompt_completion", columns={"prompt": "q", "completion": "a"})  # fmt: skip
    assert {tuple(row.items()) for row in written["train"] + written["heldout"]} == {
        (("q", "1"), ("a", "2"), ("n", "3")),
        (("q", "4"), ("a", "5"), ("n", "6")),
    }


def test_columns_that_are_not_read_survive_whatever_they_hold(write, tmp_path):
    odd = {"big": 10**30, "deep": [{"a": None}], "float": 0.1, "é": "\u2028"}
    file = write("a.jsonl", "".join(json.dumps({"text": f"{i}", **odd}) + "\n" for i in range(2)))
    written, _ = did_split(tmp_path / "out", file, heldout=1)
    assert written["train"][0] | {"text": ""} == {"text": ""} | odd


def test_files_are_never_overwritten(write, tmp_path):
    out = tmp_path / "out"
    file = write("a.jsonl", PAIRS)
    write("out/heldout.jsonl", "precious")
    with pytest.raises(UserError, match="out: already there, and never overwritten: heldout.jsonl"):
        did_split(out, file, heldout=10)
    assert [(path.name, path.read_text()) for path in out.iterdir()] == [("heldout.jsonl", "precious")]


def test_bad_rows_are_told_together_and_nothing_is_written(write, tmp_path):
    file = write("a.jsonl", [*PAIRS, {"prompt": "Q", "completion": 1}, {"prompt": "Q"}])
    with pytest.raises(UserError, match="2 mistakes"):
        did_split(tmp_path / "out", file, heldout=10)
    assert not (tmp_path / "out").exists()


def test_nothing_is_left_behind_where_writing_fails(write, tmp_path, monkeypatch):
    def full(row):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fettle.data.split._line", full)
    with pytest.raises(UserError, match="No space left on device"):
        did_split(tmp_path / "out", write("a.jsonl", PAIRS), heldout=10)
    assert list((tmp_path / "out").iterdir()) == []


def test_formats_are_not_mixed(write, tmp_path):
    one, other = write("a.jsonl", PAIRS), write("b.jsonl", [{"text": "x"}, {"text": "y"}])
    with pytest.raises(UserError, match=r"different formats: prompt_completion \(.*a.jsonl\) and text \(.*b.jsonl\)"):
        did_split(tmp_path / "out", one, other, heldout=10)


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"heldout": 100}, "100 heldout records of 100 leave none for training"),
        ({"heldout": 60, "test": 40}, "40 test records of 100 leave none for training"),
        ({"heldout": 1, "on_bad_record": "skip"}, "on_bad_record=skip does not go with a split"),
    ],
)
def test_what_cannot_be_is_refused(write, tmp_path, keys, told):
    with pytest.raises(UserError, match=told):
        did_split(tmp_path / "out", write("a.jsonl", PAIRS), **keys)


def test_one_question_asked_over_and_over_is_refused(write, tmp_path):
    with pytest.raises(UserError, match="one record cannot be split|all records ask the same"):
        did_split(
            tmp_path / "out", write("a.jsonl", [{"prompt": "Q", "completion": f"{i}"} for i in range(9)]), heldout=1
        )


def test_a_limit_leaves_the_rest_out_of_every_file(write, tmp_path):
    written, _ = did_split(tmp_path / "out", write("a.jsonl", PAIRS), heldout=2, limit=10)
    assert sorted(row["id"] for found in written.values() for row in found) == list(range(10))
