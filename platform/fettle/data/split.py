"""Records split into training, held-out and test files, equal questions on the same side."""

from __future__ import annotations

import hashlib
import json
import os
from array import array
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import msgspec
import numpy as np

from fettle.data.files import suffix_of
from fettle.data.formats import as_records
from fettle.data.overlap import folded
from fettle.data.record import Record
from fettle.data.report import Mistakes
from fettle.data.rows import Row, read_rows
from fettle.data.sources import OpenSource, Resolve, open_source
from fettle.errors import UserError
from fettle.recipe.data import DataSpec

_NAMES = ("train", "heldout", "test")


@dataclass(frozen=True)
class Split:
    """The files written, each with its number of records; and how they are to be read, as the first source was."""

    files: dict[Path, int]
    spec: DataSpec


def split(
    specs: Sequence[DataSpec],
    resolve: Resolve,
    out: Path,
    *,
    heldout: float,
    test: float = 0,
    stratify: bool | None = None,
) -> Split:
    """Writes train.jsonl, heldout.jsonl and, if wanted, test.jsonl into the folder `out`: the rows as they are.

    heldout, test: a number of records or, below 1, a share of them. stratify: by label; by default where every record
    has one. What is held out depends on the hash of what a record asks, not on the order. Holds 24 bytes a record.
    Raises UserError before anything is written: for files already there, bad rows, and sources of different formats.
    """
    files = [out / f"{name}.jsonl" for name in _NAMES[: 3 if test else 2]]
    if there := [file.name for file in files if file.exists()]:
        got, fix = f"already there, and never overwritten: {', '.join(there)}", "name another folder, or remove them"
        raise UserError(got, file=out, fix=fix)
    sources = [open_source(spec, resolve) for spec in specs]
    hashes, labels = _read(sources)
    if stratify and labels.min(initial=0) < 0:
        raise UserError("not every record has a label to stratify by", expected="classification or unpaired data")
    if stratify is False or labels.min(initial=0) < 0:
        labels = np.zeros_like(labels)
    sides = _sides(hashes, labels, (heldout, test))
    _write(sources, sides, files)
    counts = np.bincount(sides, minlength=len(files)).tolist()
    return Split(dict(zip(files, counts, strict=True)), sources[0].spec)


def asked(record: Record) -> str:
    """What a record asks: a document, or what users say in it."""
    if record.text is not None:
        return record.text
    turns = record.messages or (record.prompt.turns if record.prompt is not None else ())
    said = [turn.content for turn in turns if turn.role == "user"]
    return "\n".join(said or [turn.content for turn in turns if turn.role != "assistant"])


def _read(sources: Sequence[OpenSource]) -> tuple[np.ndarray, np.ndarray]:
    """(uint64 [records] hash of what each asks, int64 [records] number of its label, -1 without one)."""
    hashes, labels = array("Q"), array("q")
    numbers: dict[object, int] = {}
    formats: dict[str, Path] = {}
    mistakes = Mistakes()
    for source in sources:
        if source.spec.on_bad_record == "skip":
            raise UserError("on_bad_record=skip does not go with a split", fix="remove the bad rows first")
        for record in islice(_records(source, formats, mistakes), source.spec.limit):
            key = hashlib.blake2b(folded(asked(record)), digest_size=8).digest()
            hashes.append(int.from_bytes(key, "big"))
            has_label = record.kind in ("label", "unpaired")
            labels.append(numbers.setdefault(record.label, len(numbers)) if has_label else -1)
    mistakes.raise_all()
    if len(formats) > 1:
        told = " and ".join(f"{name} ({file})" for name, file in formats.items())
        raise UserError(f"different formats: {told}", expected="one format a file", fix="split each by itself")
    if len(set(hashes)) < 2:
        is_document = any(suffix_of(file) == ".txt" for source in sources for file in source.files)
        fix = "with --set split=lines each line is a record" if is_document else None
        raise UserError("one record cannot be split", file=sources[0].files[0], fix=fix)
    return np.frombuffer(hashes, np.uint64), np.frombuffer(labels, np.int64)


def _records(source: OpenSource, formats: dict[str, Path], mistakes: Mistakes) -> Iterator[Record]:
    for file in source.files:
        before = mistakes.count
        try:
            rows = read_rows(file, source.spec, mistakes.add)
            format_, records = as_records(file, rows, source.spec, mistakes.add)
            formats.setdefault(format_.name, file)
            yield from records
        except UserError as error:
            if mistakes.count == before or error.line is not None:  # else those that made the file unreadable are told
                mistakes.add(error)


def _sides(hashes: np.ndarray, labels: np.ndarray, wanted: tuple[float, float]) -> np.ndarray:
    """The side of each record: 0 training, 1 held out, 2 test. Raises UserError where nothing would be left."""
    # Records that ask the same go together: with the label of the first of them.
    _, firsts, groups, sizes = np.unique(hashes, return_index=True, return_inverse=True, return_counts=True)
    strata = labels[firsts]
    room = np.bincount(strata, weights=sizes).astype(np.int64)
    sides = np.zeros(len(sizes), dtype=np.int64)
    for side, share in enumerate(wanted, 1):
        number = max(1, round(share * len(hashes))) if 0 < share < 1 else round(share)
        if number >= room.sum():
            got = f"{number:,} {_NAMES[side]} records of {len(hashes):,} leave none for training"
            raise UserError(got, expected="a smaller number, or a share below 1")
        if number:
            quotas = _quotas(room, number)
            taken = _taken(strata, sizes, sides, quotas)
            sides[taken] = side
            room -= np.bincount(strata[taken], weights=sizes[taken], minlength=len(room)).astype(np.int64)
            if not len(taken):
                raise UserError("too many records ask the same to hold any out", expected="different questions")
    return sides[groups]


def _quotas(room: np.ndarray, number: int) -> np.ndarray:
    """`number` divided over the strata in proportion to their records, largest remainders first; each keeps one."""
    exact = room * (number / room.sum())
    quotas = np.floor(exact).astype(np.int64)
    rest = number - quotas.sum()
    quotas[np.argsort(quotas - exact, kind="stable")[:rest]] += 1
    return np.minimum(quotas, np.maximum(room - 1, 0))


def _taken(strata: np.ndarray, sizes: np.ndarray, sides: np.ndarray, quotas: np.ndarray) -> np.ndarray:
    """The groups, which are in the order of their hashes, that fill each stratum's quota; never more than that."""
    left = quotas.tolist()
    total = sum(left)
    taken = []
    for group in np.flatnonzero(sides == 0).tolist():
        if total == 0:
            break
        size, stratum = int(sizes[group]), int(strata[group])
        if size <= left[stratum]:
            taken.append(group)
            left[stratum] -= size
            total -= size
    return np.asarray(taken, dtype=np.int64)


def _write(sources: Sequence[OpenSource], sides: np.ndarray, files: Sequence[Path]) -> None:
    """Each row into its side's file; under other names first, so that all files appear, or none."""
    partial = [file.with_name(f".{file.name}.{os.getpid()}") for file in files]
    rows = chain.from_iterable(islice(_rows(source), source.spec.limit) for source in sources)
    try:
        files[0].parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            streams = [stack.enter_context(open(file, "wb")) for file in partial]
            for row, side in zip(rows, sides.tolist(), strict=True):
                streams[side].write(_line(row))
        for written, file in zip(partial, files, strict=True):
            os.rename(written, file)
    except OSError as error:
        raise UserError(f"cannot be written ({error.strerror or error})", file=files[0].parent) from None
    finally:
        for written in partial:
            written.unlink(missing_ok=True)


def _rows(source: OpenSource) -> Iterator[Row]:
    return chain.from_iterable(read_rows(file, source.spec) for file in source.files)


def _line(row: Row) -> bytes:
    try:
        return msgspec.json.encode(row.columns) + b"\n"
    except OverflowError:  # a whole number of more than 64 bits
        return json.dumps(row.columns, default=str).encode() + b"\n"
