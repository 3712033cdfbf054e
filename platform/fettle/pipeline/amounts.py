"""About how much a stage learns from: from a look at the beginning of its data, not from all of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import msgspec
from transformers import PreTrainedTokenizerBase

from fettle.data.encode import encode
from fettle.data.files import suffix_of
from fettle.data.record import Record
from fettle.data.sources import open_source, read_source
from fettle.errors import UserError
from fettle.recipe import Recipe
from fettle.recipe.data import DataSpec

_LOOKED_AT = 64
_READ_WHOLE = 32 << 20
_CHARACTERS = 200_000


@dataclass(frozen=True)
class Amount:
    """Examples as they are learned from: how many, and their tokens in the mean, at the 95th percentile and of the
    longest that was looked at. Raw text makes as many as it has pieces. answers: of a record that is one of several
    compared answers, how many it has. loss: share of the tokens that bear loss. lengths: of those looked at."""

    examples: float
    answers: float
    mean: float
    p95: float
    longest: int
    loss: float
    lengths: tuple[int, ...] = ()

    @property
    def tokens(self) -> float:
        """Of all examples."""
        return self.examples * self.mean


def amount_of(
    recipe: Recipe, field: str, specs: Sequence[DataSpec], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> Amount:
    """Of the sources together, each as it is. Raises UserError where one is not there or cannot be read."""
    found = [_amount(recipe, field, spec, tokenizer, max_length) for spec in specs]
    examples = sum(one.examples for one in found)
    tokens = sum(one.tokens for one in found)
    return Amount(
        examples,
        max(one.answers for one in found),
        tokens / max(1.0, examples),
        max(one.p95 for one in found),
        max(one.longest for one in found),
        sum(one.loss * one.tokens for one in found) / max(1.0, tokens),
        tuple(length for one in found for length in one.lengths),
    )


def _amount(recipe: Recipe, field: str, spec: DataSpec, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Amount:
    where = recipe.where(field)
    opened = open_source(spec, recipe.resolve, **where)
    total = sum(file.stat().st_size for file in opened.files)
    records = list(islice(read_source(opened, lambda problem: None), _LOOKED_AT))
    if not records:
        raise UserError(f"{spec.path}: there is no record to learn from", **where)
    looked, characters = [_cut(record) for record in records], 0
    taken: list[Record] = []
    for record, size in looked:
        taken.append(record)
        characters += size
        if characters > _CHARACTERS:
            break
    counted: dict[int, int] = {}
    loss = tokens = 0
    for number, example in enumerate(encode(taken, tokenizer, max_length=max_length)):
        counted[number] = len(example.input_ids)
        tokens += len(example.input_ids)
        loss += int(example.loss_mask.sum())
    lengths = sorted(counted.values()) or [1]
    if taken[0].text is not None:  # documents: as many pieces as their characters make
        share = characters / max(1, _characters_of(opened.files, total))
        examples = len(lengths) / max(1e-9, share)
    else:
        examples = len(lengths) / len(taken) * _records_in(opened.files, len(records), total, spec)
    return Amount(
        examples,
        1.0 if taken[0].text is not None else len(lengths) / len(taken),
        sum(lengths) / len(lengths),
        lengths[int(0.95 * (len(lengths) - 1))],
        lengths[-1],
        loss / max(1, tokens),
        tuple(counted.values()),
    )


def _cut(record: Record) -> tuple[Record, int]:
    """The record, of a long text its beginning, and its characters."""
    if record.text is None:
        return record, sum(
            len(part.text or "") + sum(len(t.content) for t in part.conversation) for _, part in record.parts()
        )
    text = record.text[:_CHARACTERS]
    return msgspec.structs.replace(record, text=text), len(text)


def _characters_of(files: Sequence[Path], total: int) -> int:
    """A byte is about a character; what is compressed holds four times as many."""
    return sum(os.path.getsize(file) * (4 if file.suffix in (".gz", ".parquet") else 1) for file in files) or total


def _records_in(files: Sequence[Path], looked_at: int, total: int, spec: DataSpec) -> float:
    """Lines are counted; where records are no lines, files are read whole while they are small, else guessed."""
    if all(suffix_of(file) == ".jsonl" and file.suffix == ".jsonl" for file in files):
        count: float = sum(_lines(file) for file in files)
    elif looked_at < _LOOKED_AT or total > _READ_WHOLE:
        count = looked_at
    else:
        from fettle.data.formats import read_file

        count = sum(1 for file in files for _ in read_file(file, spec, lambda problem: None)[1])
    return min(count, spec.limit or count)


def _lines(file: Path) -> int:
    """Lines of a file; of a large one by the length of the first ones."""
    size, most = file.stat().st_size, _READ_WHOLE
    with open(file, "rb") as stream:
        block = stream.read(most)
    return int(block.count(b"\n") * max(1.0, size / max(1, len(block))))
