"""A file of rows that grows beside its name, goes on where it was interrupted, and is there once it is whole.

FILE.partial holds the rows so far, in order; FILE.partial.json what decides them. Both are gone once FILE is there.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from fettle.artifact import replace_text, sync_path
from fettle.errors import UserError
from fettle.pipeline.planned import hash_of


class AnswerFile:
    """Made by `open_answers`. num_done: rows that are written."""

    def __init__(self, out: Path, stream: BinaryIO, num_done: int) -> None:
        self.num_done = num_done
        self._out, self._stream = out, stream
        self._waiting: dict[int, Mapping[str, Any]] = {}

    def put(self, index: int, row: Mapping[str, Any]) -> None:
        """Row number `index`, which is written once all before it are."""
        self._waiting[index] = row
        if self.num_done not in self._waiting:
            return
        while (next_row := self._waiting.pop(self.num_done, None)) is not None:
            line = json.dumps({"index": self.num_done, **next_row}, ensure_ascii=False)
            self._stream.write(line.encode() + b"\n")
            self.num_done += 1
        self._stream.flush()

    def finish(self) -> None:
        """Gives the file its name."""
        assert not self._waiting
        os.fsync(self._stream.fileno())
        os.rename(partial_of(self._out), self._out)
        sync_path(self._out.parent)
        _told_of(self._out).unlink()


def partial_of(out: Path) -> Path:
    """Where the rows lie until they are whole."""
    return out.with_name(f"{out.name}.partial")


def check_out(out: Path) -> None:
    """Raises UserError where `out` cannot be written anew."""
    if out.is_dir():
        raise UserError("a folder", file=out, field="--out", expected="a file's name, such as answers.jsonl")
    if out.exists():
        raise UserError("it is there already", file=out, field="--out", fix="remove it, or choose another --out")


@contextmanager
def open_answers(out: Path, decides: Mapping[str, Any]) -> Iterator[AnswerFile]:
    """The rows of `out` that an interrupted run has left, to go on from; none where there was no such run.

    decides: setting to value, as JSON has it, of everything that decides what the rows say. Raises UserError where
    `out` is there, where what was left was made under other settings, or while another run writes it.
    """
    check_out(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    settings = json.loads(json.dumps(decides))
    with open(partial_of(out), "ab+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError("another run is writing it", file=out, field="--out", fix="choose another --out") from None
        check_out(out)  # the other run may have just ended
        _check_same(out, stream, settings)
        try:
            yield AnswerFile(out, stream, _whole_rows(stream))
        finally:
            if partial_of(out).exists() and stream.seek(0, os.SEEK_END) == 0:  # nothing to go on from
                partial_of(out).unlink()
                _told_of(out).unlink()


def _check_same(out: Path, stream: BinaryIO, settings: dict[str, Any]) -> None:
    """Raises UserError where the rows so far were made under other settings; notes these where there are none."""
    partial, file = partial_of(out), _told_of(out)
    told = {"fingerprint": hash_of(settings), "settings": settings}
    if stream.seek(0, os.SEEK_END) == 0:
        replace_text(file, json.dumps(told, indent=2, ensure_ascii=False) + "\n")
        return
    fix = f"remove {partial.name} and {file.name}, or choose another --out"
    try:
        before = json.loads(file.read_text(encoding="utf-8"))
        fingerprint, kept = before["fingerprint"], dict(before["settings"])
    except (OSError, ValueError, LookupError, TypeError):
        raise UserError(
            f"rows of another run, without a readable {file.name} that tells which",
            file=partial,
            field="--out",
            fix=fix,
        ) from None
    if fingerprint != told["fingerprint"]:
        others = [name for name in {**kept, **settings} if kept.get(name) != settings.get(name)]
        got = f"an interrupted run with other settings ({', '.join(others)}) has left it"
        raise UserError(got, file=partial, field="--out", fix=fix)


def _whole_rows(stream: BinaryIO) -> int:
    """How many there are, one after the other; what comes after them, torn, is cut off."""
    end = count = 0
    stream.seek(0)
    for line in stream:
        try:
            is_whole = line.endswith(b"\n") and json.loads(line)["index"] == count
        except (ValueError, LookupError, TypeError):
            is_whole = False
        if not is_whole:
            break
        end, count = end + len(line), count + 1
    stream.truncate(end)
    stream.seek(end)
    return count


def _told_of(out: Path) -> Path:
    return out.with_name(f"{out.name}.partial.json")
