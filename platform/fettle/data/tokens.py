"""Encoded examples on disk: written once by the driver, mapped into memory by every worker, shared between runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np

from fettle.data.batches import Encoded
from fettle.data.cache import new_folder
from fettle.data.encode import Example
from fettle.recipe.data import HeldoutSpec

DEFAULT_HELDOUT = HeldoutSpec(fraction=0.02, max=200)
_BUFFER_BYTES = 1 << 20


@dataclass(frozen=True)
class TokenExample:
    """One encoded example, a view into the set. input_ids: int32 [T]; loss_mask: bool [T].

    Of a record that is learned as a whole, such as a preference with its answers, all parts one after the other. ends:
    int64 [K], one past the last token of each part. values: float32 [K], what `Example.value` says of each; of a
    classified text the position of its label.
    """

    input_ids: np.ndarray
    loss_mask: np.ndarray
    ends: np.ndarray | None = None
    values: np.ndarray | None = None

    @property
    def parts(self) -> list[np.ndarray]:
        """The token ids of each part, int32 [T]."""
        assert self.ends is not None
        return np.split(self.input_ids, self.ends[:-1])

    @property
    def part_masks(self) -> list[np.ndarray]:
        """The loss mask of each part, bool [T]."""
        assert self.ends is not None
        return np.split(self.loss_mask, self.ends[:-1])


def grouped(examples: Iterable[Example], labels: Sequence[str] = ()) -> Iterator[TokenExample]:
    """Each record's examples as one. labels: of classified texts, in order."""
    place = {label: number for number, label in enumerate(labels)}
    for _, group in groupby(examples, key=lambda example: (example.file, example.line)):
        parts = list(group)
        yield TokenExample(
            np.concatenate([part.input_ids for part in parts]),
            np.concatenate([part.loss_mask for part in parts]),
            np.cumsum([len(part.input_ids) for part in parts]),
            np.array([part.value if part.label is None else place[part.label] for part in parts], np.float32),
        )


class TokenSet(Sequence[TokenExample]):
    """The examples of one source, in one or more folders of three arrays each, mapped rather than read."""

    def __init__(self, *folders: Path) -> None:
        self._ids = [_mapped(folder / "ids.bin", np.int32) for folder in folders]
        self._masks = [_mapped(folder / "mask.bin", np.bool_) for folder in folders]
        self._offsets = [_mapped(folder / "offsets.bin", np.int64) for folder in folders]
        self._ends = [_mapped(folder / "ends.bin", np.int64) for folder in folders]
        self._values = [_mapped(folder / "values.bin", np.float32) for folder in folders]
        self._firsts = np.cumsum([0, *(len(offsets) - 1 for offsets in self._offsets)])
        told = [json.loads((folder / "counts.json").read_text(encoding="utf-8")) for folder in folders]
        self.counts: dict[str, int] = {
            key: (max if key == "longest" else sum)(counts[key] for counts in told) for key in told[0]
        }

    def __len__(self) -> int:
        return int(self._firsts[-1])

    def __getitem__(self, index):  # type: ignore[no-untyped-def]  # Sequence's overloads for slices are not needed
        place = range(len(self))[index]
        part = int(np.searchsorted(self._firsts, place, side="right")) - 1
        first = place - self._firsts[part]
        begin, end = self._offsets[part][first : first + 2]
        found = TokenExample(self._ids[part][begin:end], self._masks[part][begin:end])
        if not len(self._ends[part]):
            return found
        inside = slice(*np.searchsorted(self._ends[part], (begin, end), side="right"))
        return replace(found, ends=self._ends[part][inside] - begin, values=self._values[part][inside])

    def has_values(self) -> bool:
        """Whether any part has a value other than 0."""
        return any(bool(values.any()) for values in self._values)

    def largest_id(self) -> int:
        """The largest token id; -1 where there are no tokens."""
        return max(int(ids.max(initial=-1)) for ids in self._ids)

    def lengths(self) -> np.ndarray:
        """Tokens of each example, int64."""
        return np.concatenate([np.diff(offsets) for offsets in self._offsets])


def write_tokens(folder: Path, examples: Iterable[Encoded], counts: Callable[[], dict[str, int]] = dict) -> TokenSet:
    """The examples as a TokenSet at `folder`, whole or absent, in flat memory; `counts` is asked after the last one."""
    with new_folder(folder) as partial:
        fill_tokens(partial, examples, counts)
    return TokenSet(folder)


def fill_tokens(folder: Path, examples: Iterable[Encoded], counts: Callable[[], dict[str, int]] = dict) -> None:
    """Writes the files of a TokenSet into an empty folder."""
    with ExitStack() as stack:
        ids, mask, offsets, ends, values = (
            stack.enter_context(open(folder / f"{name}.bin", "wb", buffering=_BUFFER_BYTES))
            for name in ("ids", "mask", "offsets", "ends", "values")
        )
        end = 0
        offsets.write(end.to_bytes(8, "little"))
        for example in examples:
            if isinstance(example, TokenExample) and example.ends is not None:
                ends.write(np.ascontiguousarray(example.ends + end, dtype=np.int64).data)
                values.write(np.ascontiguousarray(example.values, dtype=np.float32).data)
            end += len(example.input_ids)
            ids.write(np.ascontiguousarray(example.input_ids, dtype=np.int32).data)
            mask.write(np.ascontiguousarray(example.loss_mask, dtype=np.bool_).data)
            offsets.write(end.to_bytes(8, "little"))
    (folder / "counts.json").write_text(json.dumps(counts()), encoding="utf-8")


def choose_heldout(examples: Sequence[Encoded], spec: HeldoutSpec) -> tuple[np.ndarray, np.ndarray]:
    """(positions to train on, positions held out) of some examples, by each one's hash.

    The choice depends on the examples alone, not on their order; equal examples fall on the same side, in training
    where they are more than `spec.max`. At least one is held out where there are two different ones, and at least
    one different example is left to train on.
    """
    assert spec.fraction is not None
    hashes = np.fromiter((content_hash(e) for e in examples), dtype=np.uint64, count=len(examples))
    different, count = np.unique(hashes, return_counts=True)
    wanted = min(max(1, round(spec.fraction * len(examples))), spec.max)
    chosen: list[int] = []
    held = 0
    for number in range(len(different) - 1):
        if held >= wanted:
            break
        if held + count[number] <= spec.max:
            chosen.append(number)
            held += count[number]
    is_out = np.isin(hashes, different[chosen])
    return np.flatnonzero(~is_out), np.flatnonzero(is_out)


def positions_without(examples: TokenSet, out: Sequence[Encoded]) -> np.ndarray:
    """Positions of the examples that are equal to none of `out`."""
    hashes = {content_hash(example) for example in out}
    suspects = np.flatnonzero(np.isin(examples.lengths(), [len(example.input_ids) for example in out]))
    equal = [position for position in suspects.tolist() if content_hash(examples[position]) in hashes]
    return np.delete(np.arange(len(examples)), equal)


def content_hash(example: Encoded) -> int:
    """64 bits of an example's token ids."""
    ids = np.ascontiguousarray(example.input_ids, dtype=np.int32)
    return int.from_bytes(hashlib.blake2b(ids.data, digest_size=8).digest(), "little")


def _mapped(file: Path, dtype: type) -> np.ndarray:
    if not file.stat().st_size:  # nothing cannot be mapped
        return np.zeros(0, dtype)
    return np.asarray(np.memmap(file, dtype, mode="r"))
