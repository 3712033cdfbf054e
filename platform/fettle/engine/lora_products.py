"""LoRA's two products on a CPU: rows of one adapter are multiplied together, and rows of none are left alone.

Upstream (vLLM 0.32.0, vllm/lora/ops/torch_ops/lora_ops.py) copies an adapter's whole matrix for every token and
multiplies row by row: an engine of a small model answers a fifth as fast with an adapter as without
(`benchmarks/engine_lora.py`). And a row without an adapter, whose slot is -1, gets the last slot's.

Matrices are as wide as the largest rank that the engine takes, and filled up with zeros. Where their tensor has
`ranks`, of each slot (`patches.tell_ranks`), the zeros are left out: an endpoint that follows a registry takes a rank
of 64, and most adapters have 8 or 16.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch


@dataclass(frozen=True)
class Rows:
    """Rows that have an adapter, by their slots. where: of all of them in the inputs, ascending; None where those are
    the first. slots: in their order. lengths: of each slot its rows. sorted: the inputs' rows slot by slot, None where
    they lie so. back: in what is sorted so, the rows as they were."""

    where: torch.Tensor | None
    slots: tuple[int, ...]
    lengths: tuple[int, ...]
    by_slot: torch.Tensor | None
    back: torch.Tensor | None
    padded: Padded

    @property
    def count(self) -> int:
        """Of the rows."""
        return sum(self.lengths)


@dataclass(frozen=True)
class Padded:
    """As if every slot had as many rows as the one with the most. rows: of the inputs, the first in place of none; None
    where they lie so. back: where each row is then. slots: None where they lie side by side."""

    longest: int
    rows: torch.Tensor | None
    back: torch.Tensor | None
    slots: torch.Tensor | None


_LARGE = 1 << 14
"""Numbers in a matrix from which one product after the other is faster than copying the matrices together."""
_LITTLE = 1 << 21
"""Multiplications that cost less than the calls that would save them."""


def sgmv_shrink(
    inputs: torch.Tensor,
    weights: torch.Tensor,
    output: torch.Tensor,
    starts: torch.Tensor,
    lengths: torch.Tensor,
    slots: torch.Tensor,
    batches: int,
    longest: int,
    tokens: int,
    scaling: float,
) -> None:
    """output (tokens × rank) = scaling · inputs (tokens × in) · A of each run of tokens. weights: slots × [1 ×] rank ×
    in. lengths, slots: of the runs, `slots` -1 for one without an adapter."""
    _shrink(inputs, weights, output, _rows_of_runs(slots, lengths), scaling)


def bgmv_shrink(
    inputs: torch.Tensor, weights: torch.Tensor, output: torch.Tensor, slots: torch.Tensor, scaling: float = 1.0
) -> None:
    """As `sgmv_shrink`, with a slot a row, or one for all."""
    _shrink(inputs, weights, output, _rows_of_each(slots, inputs), scaling)


def sgmv_expand(
    inputs: torch.Tensor,
    weights: torch.Tensor,
    output: torch.Tensor,
    starts: torch.Tensor,
    lengths: torch.Tensor,
    slots: torch.Tensor,
    batches: int,
    longest: int,
    tokens: int,
    add_inputs: bool = False,
) -> None:
    """output (tokens × out) = [output +] inputs (tokens × rank) · B of each run of tokens. weights: slots × [1 ×] out ×
    rank, of which the first columns are taken where they are padded otherwise than the output."""
    _expand(inputs, weights, output, _rows_of_runs(slots, lengths), add_inputs)


def bgmv_expand(
    inputs: torch.Tensor, weights: torch.Tensor, output: torch.Tensor, slots: torch.Tensor, add_inputs: bool = True
) -> None:
    """As `sgmv_expand`, with a slot a row, or one for all."""
    _expand(inputs, weights, output, _rows_of_each(slots, inputs), add_inputs)


def sgmv_expand_slice(
    inputs: torch.Tensor,
    weights: torch.Tensor,
    output: torch.Tensor,
    starts: torch.Tensor,
    lengths: torch.Tensor,
    slots: torch.Tensor,
    batches: int,
    longest: int,
    tokens: int,
    slice_offset: int,
    slice_size: int,
    add_inputs: bool = False,
) -> None:
    """As `sgmv_expand`, into some of the output's columns."""
    columns = output[:, slice_offset : slice_offset + slice_size]
    _expand(inputs, weights, columns, _rows_of_runs(slots, lengths), add_inputs)


def bgmv_expand_slice(
    inputs: torch.Tensor,
    weights: torch.Tensor,
    output: torch.Tensor,
    slots: torch.Tensor,
    slice_offset: int,
    slice_size: int,
    add_inputs: bool = True,
) -> None:
    """As `bgmv_expand`, into some of the output's columns."""
    columns = output[:, slice_offset : slice_offset + slice_size]
    _expand(inputs, weights, columns, _rows_of_each(slots, inputs), add_inputs)


def _shrink(inputs: torch.Tensor, weights: torch.Tensor, output: torch.Tensor, rows: Rows, scaling: float) -> None:
    rank = _rank(weights, rows, weights.shape[-2])
    found = _products(inputs, weights.flatten(1, -2)[:, :rank], output.dtype, rows)
    if scaling != 1.0:
        found = found * scaling
    if rows.where is None:
        output[: rows.count, : found.shape[1]] = found
    else:
        output[rows.where, : found.shape[1]] = found


def _expand(inputs: torch.Tensor, weights: torch.Tensor, output: torch.Tensor, rows: Rows, add_inputs: bool) -> None:
    if not add_inputs:
        output.zero_()
    rank = _rank(weights, rows, weights.shape[-1])
    found = _products(inputs[:, :rank], weights.flatten(1, -2)[..., :rank], output.dtype, rows)
    width = min(found.shape[1], output.shape[1])
    if rows.where is None:
        output[: rows.count, :width] += found[:, :width]
    else:
        output[:, :width].index_add_(0, rows.where, found[:, :width])


def _rank(weights: torch.Tensor, rows: Rows, most: int) -> int:
    """The largest of the rows' adapters."""
    ranks: dict[int, int] = getattr(weights, "ranks", {})
    return max((ranks.get(slot, most) for slot in rows.slots), default=most)


def _products(inputs: torch.Tensor, matrices: torch.Tensor, dtype: torch.dtype, rows: Rows) -> torch.Tensor:
    """Of the rows, as they follow each other: each with its slot's matrix. matrices: slots × out × in."""
    if not rows.slots:
        return inputs.new_empty(0, matrices.shape[1], dtype=dtype)
    padded, size = len(rows.slots) * rows.padded.longest, matrices[0].numel()
    copies_little = size < _LARGE or rows.padded.slots is None
    if len(rows.slots) > 1 and copies_little and (padded <= 2 * rows.count or padded * size <= _LITTLE):
        return _at_once(inputs.to(dtype), matrices, rows)
    mine = (inputs[: rows.count] if rows.by_slot is None else inputs[rows.by_slot]).to(dtype)
    parts = zip(rows.slots, mine.split(rows.lengths), strict=True)
    products = [part @ matrices[slot].to(dtype).T for slot, part in parts]
    found = products[0] if len(products) == 1 else torch.cat(products)
    return found if rows.back is None else found[rows.back]


def _at_once(inputs: torch.Tensor, matrices: torch.Tensor, rows: Rows) -> torch.Tensor:
    """As `_products`, in one batch of products, however many slots and rows of each there are."""
    padded, slots = rows.padded, rows.slots
    mine = inputs[: rows.count] if padded.rows is None else inputs.index_select(0, padded.rows)
    # Side by side nothing is copied, which is half of the time of small ones.
    theirs = matrices[slots[0] : slots[-1] + 1] if padded.slots is None else matrices.index_select(0, padded.slots)
    found = torch.bmm(mine.view(len(slots), padded.longest, -1), theirs.to(inputs.dtype).mT).flatten(0, 1)
    return found if padded.back is None else found.index_select(0, padded.back)


def _rows_of_runs(slots: torch.Tensor, lengths: torch.Tensor) -> Rows:
    return _rows(tuple(slots.tolist()), tuple(lengths.tolist()))


def _rows_of_each(slots: torch.Tensor, inputs: torch.Tensor) -> Rows:
    if len(slots) not in (1, len(inputs)):
        raise ValueError(f"{len(inputs)} rows and {len(slots)} adapters of theirs")
    return _rows(tuple(slots.tolist()), (len(inputs),) if len(slots) == 1 else (1,) * len(slots))


@lru_cache(maxsize=16)  # all layers of a step have the same
def _rows(slots: tuple[int, ...], lengths: tuple[int, ...]) -> Rows:
    of_slot: dict[int, list[int]] = {}
    first = 0
    for slot, length in zip(slots, lengths, strict=True):
        if slot >= 0:
            of_slot.setdefault(slot, []).extend(range(first, first + length))
        first += length
    of_slot = dict(sorted(of_slot.items()))
    by_slot = [row for found in of_slot.values() for row in found]
    where = sorted(by_slot)
    place = {row: number for number, row in enumerate(by_slot)}
    back = [place[row] for row in where]
    longest = max(map(len, of_slot.values()), default=0)
    filled = [row for found in of_slot.values() for row in found + [0] * (longest - len(found))]
    at = {
        row: number * longest + of_its
        for number, found in enumerate(of_slot.values())
        for of_its, row in enumerate(found)
    }
    is_full = len(filled) == len(where)
    places = [at[row] for row in where]
    padded = Padded(
        longest,
        _unless_run(filled, 0),
        _unless_run(places, 0) if is_full else torch.tensor(places),
        _unless_run(list(of_slot)),
    )
    counts = tuple(map(len, of_slot.values()))
    return Rows(_unless_run(where, 0), tuple(of_slot), counts, _unless_run(by_slot, 0), _unless_run(back, 0), padded)


def _unless_run(numbers: list[int], first: int | None = None) -> torch.Tensor | None:
    """None where each is one more than the one before it, from `first` on or from wherever they begin."""
    begin = first if first is not None else numbers[0] if numbers else 0
    return None if numbers == list(range(begin, begin + len(numbers))) else torch.tensor(numbers)
