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
    """Rows that have an adapter, those of one side by side, those of equally many rows too. order: which of the inputs'
    they are, None where they are these, from the first on."""

    order: torch.Tensor | None
    groups: tuple[Group, ...]
    count: int


@dataclass(frozen=True)
class Group:
    """Slots, in their order, with equally many rows each. place: of them all, None where they lie side by side."""

    slots: tuple[int, ...]
    length: int
    place: torch.Tensor | None


_LARGE = 1 << 14
"""Numbers in a matrix from which one product after the other is faster than copying the matrices together."""


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
    found = _products(inputs, weights.flatten(1, -2)[:, :rank], output.dtype, rows) * scaling
    if rows.order is None:
        output[: rows.count, : found.shape[1]] = found
    else:
        output[rows.order, : found.shape[1]] = found


def _expand(inputs: torch.Tensor, weights: torch.Tensor, output: torch.Tensor, rows: Rows, add_inputs: bool) -> None:
    if not add_inputs:
        output.zero_()
    rank = _rank(weights, rows, weights.shape[-1])
    found = _products(inputs[:, :rank], weights.flatten(1, -2)[..., :rank], output.dtype, rows)
    width = min(found.shape[1], output.shape[1])
    if rows.order is None:
        output[: rows.count, :width] += found[:, :width]
    else:
        output[:, :width].index_add_(0, rows.order, found[:, :width])


def _rank(weights: torch.Tensor, rows: Rows, most: int) -> int:
    """The largest of the rows' adapters."""
    ranks: dict[int, int] = getattr(weights, "ranks", {})
    return max((ranks.get(slot, most) for group in rows.groups for slot in group.slots), default=most)


def _products(inputs: torch.Tensor, matrices: torch.Tensor, dtype: torch.dtype, rows: Rows) -> torch.Tensor:
    """Of the rows, in their order: each with its slot's matrix. matrices: slots × out × in."""
    inputs = (inputs[: rows.count] if rows.order is None else inputs[rows.order]).to(dtype)
    found, first = [], 0
    for group in rows.groups:
        slots, length = group.slots, group.length
        count = len(slots) * length
        mine = inputs[first : first + count]
        first += count
        if len(slots) == 1 or (group.place is not None and matrices[0].numel() >= _LARGE):
            parts = zip(slots, mine.split(length), strict=True)
            found += [part @ matrices[slot].to(dtype).T for slot, part in parts]
        else:  # side by side nothing is copied: half of the time of small ones
            beside = matrices[slots[0] : slots[-1] + 1]
            theirs = beside if group.place is None else matrices.index_select(0, group.place)
            found.append(torch.bmm(mine.view(-1, length, mine.shape[1]), theirs.to(dtype).mT).flatten(0, 1))
    if len(found) == 1:
        return found[0]
    return torch.cat(found) if found else inputs.new_empty(0, matrices.shape[1])


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
    as_long: dict[int, list[int]] = {}
    for slot, found in sorted(of_slot.items()):
        as_long.setdefault(len(found), []).append(slot)
    order = [row for same in as_long.values() for slot in same for row in of_slot[slot]]
    groups = tuple(Group(tuple(same), length, _unless_run(same)) for length, same in as_long.items())
    return Rows(_unless_run(order, 0), groups, len(order))


def _unless_run(numbers: list[int], first: int | None = None) -> torch.Tensor | None:
    """None where each is one more than the one before it, from `first` on or from wherever they begin."""
    begin = numbers[0] if first is None else first
    return None if numbers == list(range(begin, begin + len(numbers))) else torch.tensor(numbers)
