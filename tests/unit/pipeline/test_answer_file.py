"""A file of rows: in order, whole or beside its name, and gone on with where a run was interrupted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fettle.errors import UserError
from fettle.pipeline.answer_file import open_answers, partial_of

DECIDES = {"data": "sha256:1", "--seed": 0}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "new folder" / "answers.jsonl"


def put(out: Path, *indices: int, decides: dict[str, Any] | None = None) -> int:
    """Puts rows that say their own number, and is interrupted; gives how many were there before."""
    with pytest.raises(KeyboardInterrupt), open_answers(out, decides or DECIDES) as file:
        before = file.num_done
        for index in indices:
            file.put(index, {"said": index})
        raise KeyboardInterrupt
    return before


def rows(file: Path) -> list[int]:
    told = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["index"] for row in told] == list(range(len(told)))
    return [row["said"] for row in told]


def test_the_file_is_there_once_it_is_whole(out: Path) -> None:
    with open_answers(out, DECIDES) as file:
        file.put(0, {"said": 0})
        assert (out.exists(), rows(partial_of(out))) == (False, [0])
        file.finish()

    assert rows(out) == [0]
    assert list(out.parent.iterdir()) == [out]


def test_rows_that_come_early_wait_for_those_before_them(out: Path) -> None:
    put(out, 2, 0)
    assert rows(partial_of(out)) == [0]

    assert put(out, 3, 2, 1) == 1
    assert rows(partial_of(out)) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "torn", [b'{"index": 2, "sa', b'{"index": 2, "said": 2}', b"\0\0\0\0\n", b"[]\n", b'{"index": 7}\n']
)
def test_it_goes_on_after_the_last_whole_row(out: Path, torn: bytes) -> None:
    put(out, 0, 1)
    with open(partial_of(out), "ab") as stream:
        stream.write(torn)

    assert put(out, 2) == 2
    assert rows(partial_of(out)) == [0, 1, 2]


def test_a_run_with_other_settings_is_told_which_they_are_and_changes_nothing(out: Path) -> None:
    put(out, 0)

    with pytest.raises(UserError, match=r"other settings \(--seed, --top-p\)") as refused:
        put(out, decides={"data": "sha256:1", "--seed": 1, "--top-p": 0.5})

    assert "remove answers.jsonl.partial and answers.jsonl.partial.json" in str(refused.value)
    assert put(out) == 1


def test_rows_of_an_unknown_run_are_left_alone(out: Path) -> None:
    put(out, 0)
    out.with_name("answers.jsonl.partial.json").unlink()

    with pytest.raises(UserError, match="rows of another run"):
        put(out, 1)
    assert rows(partial_of(out)) == [0]


def test_a_run_that_wrote_nothing_leaves_nothing(out: Path) -> None:
    put(out)
    assert list(out.parent.iterdir()) == []


def test_a_file_that_is_there_is_never_written_over(out: Path) -> None:
    out.parent.mkdir()
    out.write_text("mine")

    with pytest.raises(UserError, match="it is there already"):
        put(out)
    with pytest.raises(UserError, match="a folder"):
        put(out.parent)
    assert [out.read_text(), *out.parent.iterdir()] == ["mine", out]


def test_two_runs_do_not_write_one_file(out: Path) -> None:
    with open_answers(out, DECIDES) as file:
        file.put(0, {"said": 0})
        with pytest.raises(UserError, match="another run is writing it"):
            put(out, 0)
        file.finish()
    assert rows(out) == [0]
