"""Caching, streaming, packing and splitting work change no token and no mask."""

from __future__ import annotations

import json
import random
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from small_house import House, chat

from fettle.data.batches import IGNORE
from fettle.data.encode import encode
from fettle.data.sources import open_source, read_source
from fettle.models.base import load_tokenizer
from fettle.pipeline.prepare import prepare
from fettle.recipe.data import DataSpec
from fettle.train.causal import CausalTask
from fettle.train.curriculum import StepsUnderway, curriculum
from fettle.train.trainer import MicroBatches

SOURCES: list[dict[str, Any]] = [
    {"path": "mixed/chats.jsonl"},
    {"path": "mixed/pairs", "weight": 0.7},
    {"path": "mixed/lines.txt", "split": "lines", "weight": 0.4},
]
Tokens = tuple[tuple[int, bool], ...]


@pytest.fixture
def mixed(house: House) -> House:
    """Conversations, two files of pairs, and lines of which some are longer than a row."""
    given = random.Random(0)
    folder = house.folder / "mixed"
    (folder / "pairs").mkdir(parents=True)
    write(folder / "chats.jsonl", [chat(given.randint(1, 10**9)) for _ in range(30)])
    for name in "ab":
        rows = [{"prompt": f"{name}{n}", "completion": "ü" * given.randint(1, 30)} for n in range(12)]
        write(folder / "pairs" / f"{name}.jsonl", rows)
    (folder / "lines.txt").write_text("\n\n".join(f"line {n} " * given.randint(1, 40) for n in range(15)))
    return house


def write(file: Path, rows: list[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def from_the_top(house: House) -> Counter[Tokens]:
    """The examples of every source once, as `fettle data show` has them. The first one never bears loss."""
    tokenizer = load_tokenizer(house.folder / "base")
    found: Counter[Tokens] = Counter()
    for source in SOURCES:
        opened = open_source(DataSpec(**source), lambda path: house.folder / path)
        for one in encode(read_source(opened), tokenizer, max_length=128):
            assert not one.loss_mask[0]
            found[tuple(zip(one.input_ids.tolist(), one.loss_mask.tolist(), strict=True))] += 1
    return found


def trained_on(house: House, streaming: bool, world: int, accumulate: int, packing: bool) -> Counter[Tokens]:
    """The examples in the rows of all workers' micro-batches, each cut out by its positions."""
    stage = {
        "name": "task",
        "kind": "sft",
        "data": SOURCES,
        "heldout": {"data": "general.jsonl"},
        "batch": {"tokens": 700, "accumulate": accumulate},
        "streaming": streaming,
        "max_steps": 40,
        "packing": packing,
    }
    house = house.with_stages(stage)
    (job,), _ = prepare(house.recipe(), house.plan(), house.out / "tokens")
    found: Counter[Tokens] = Counter()
    for rank in range(world):
        steps = StepsUnderway(curriculum(job))
        rows = CausalTask(max_length=128, packing=packing, pad_id=0).collate
        for batch in MicroBatches(steps, rank, world, accumulate, rows):
            for row in range(len(batch["input_ids"])):
                found += examples_in({name: tensor[row] for name, tensor in batch.items()})
    return found


def examples_in(row: dict[str, torch.Tensor]) -> Counter[Tokens]:
    starts = [*torch.nonzero(row["position_ids"] == 0).flatten().tolist(), len(row["input_ids"])]
    found: Counter[Tokens] = Counter()
    for begin, end in pairwise(starts):
        ids, labels = row["input_ids"][begin:end], row["labels"][begin:end]
        bears = labels != IGNORE
        assert torch.equal(labels[bears], ids[bears])
        if bears.any():  # padding bears none
            # Without packing, padding goes on in its example's row with positions of its own.
            found[tuple(zip(ids.tolist(), bears.tolist(), strict=True))] += 1
    return found


@pytest.fixture(autouse=True)
def any_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    # An sft stage would refuse raw text beside its conversations; here they are to be mixed.
    monkeypatch.setattr("fettle.pipeline.prepare.inspect_stage", lambda *_, **__: Nothing())


class Nothing:
    """A report of data that nothing is wrong with."""

    warnings: tuple[str, ...] = ()
    files: tuple[Any, ...] = ()

    def raise_mistakes(self) -> None: ...


@pytest.mark.parametrize("streaming", [False, True])
def test_every_example_is_trained_on_as_it_is_shown_whatever_the_split(mixed, streaming):
    shown = from_the_top(mixed)
    reference = trained_on(mixed, streaming, world=1, accumulate=1, packing=True)
    assert reference.keys() == shown.keys()  # every source has been passed over at least once
    for world, accumulate, packing in ((1, 1, False), (2, 1, True), (2, 3, True), (3, 2, False)):
        assert trained_on(mixed, streaming, world, accumulate, packing) == reference
