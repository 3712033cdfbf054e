"""Encoded examples on disk: written once by the driver, mapped into memory by every worker, shared between runs."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fettle.data.batches import Encoded
from fettle.recipe.data import HeldoutSpec


@dataclass(frozen=True)
class TokenExample:
    """One encoded example, a view into the set. input_ids: int32 [T]; loss_mask: bool [T]."""

    input_ids: np.ndarray
    loss_mask: np.ndarray


class TokenSet(Sequence[TokenExample]):
    """The examples of one source, in a folder of three arrays."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ids = np.load(folder / "ids.npy", mmap_mode="r", allow_pickle=False)
        self.mask = np.load(folder / "mask.npy", mmap_mode="r", allow_pickle=False)
        self.offsets = np.load(folder / "offsets.npy", allow_pickle=False)
        self.counts: dict[str, int] = json.loads((folder / "counts.json").read_text(encoding="utf-8"))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index):  # type: ignore[no-untyped-def]  # Sequence's overloads for slices are not needed
        place = range(len(self))[index]
        begin, end = self.offsets[place], self.offsets[place + 1]
        return TokenExample(self.ids[begin:end], self.mask[begin:end])

    def lengths(self) -> list[int]:
        """Tokens of each example."""
        return np.diff(self.offsets).tolist()

    def loss_lengths(self) -> list[int]:
        """Loss-bearing tokens of each example (its first token never is one)."""
        bears = self.mask.copy()
        bears[self.offsets[:-1]] = False
        return np.add.reduceat(bears, self.offsets[:-1]).astype(int).tolist() if len(self) else []


def write_tokens(folder: Path, examples: Iterable[Encoded], counts: Callable[[], dict[str, int]] = dict) -> TokenSet:
    """The examples as a TokenSet at `folder`, whole or absent; `counts` is asked after the last one."""
    ids: list[np.ndarray] = []
    mask: list[np.ndarray] = []
    offsets = [0]
    for example in examples:
        ids.append(np.asarray(example.input_ids, dtype=np.int32))
        mask.append(np.asarray(example.loss_mask, dtype=bool))
        offsets.append(offsets[-1] + len(ids[-1]))
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".partial-{uuid.uuid4().hex[:8]}")
    partial.mkdir()
    try:
        np.save(partial / "ids.npy", np.concatenate(ids) if ids else np.zeros(0, np.int32))
        np.save(partial / "mask.npy", np.concatenate(mask) if mask else np.zeros(0, bool))
        np.save(partial / "offsets.npy", np.asarray(offsets, dtype=np.int64))
        (partial / "counts.json").write_text(json.dumps(counts()), encoding="utf-8")
        if not folder.is_dir():
            os.rename(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return TokenSet(folder)


def choose_heldout(examples: TokenSet, spec: HeldoutSpec) -> tuple[list[int], list[int]]:
    """(positions to train on, positions held out) of a source, by each example's hash.

    The choice depends on the examples alone, not on their order; equal examples fall on the same side, in training
    where they are more than `spec.max`. At least one is held out where there are two different ones, and at least
    one different example is left to train on.
    """
    assert spec.fraction is not None
    hashes = [hashlib.sha256(np.ascontiguousarray(e.input_ids).tobytes()).digest() for e in examples]
    count = Counter(hashes)
    wanted = min(max(1, round(spec.fraction * len(examples))), spec.max)
    chosen: set[bytes] = set()
    held = 0
    for digest in sorted(count)[:-1]:
        if held < wanted and held + count[digest] <= spec.max:
            chosen.add(digest)
            held += count[digest]
    train = [i for i, digest in enumerate(hashes) if digest not in chosen]
    return train, [i for i, digest in enumerate(hashes) if digest in chosen]
