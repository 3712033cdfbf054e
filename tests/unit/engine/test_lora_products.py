"""LoRA's products of a batch in which rows have different adapters, or none."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fettle.engine import lora_products as ours

IN, RANK, OUT, SLOTS = 6, 2, 5, 3
MIXES = {
    "one adapter": [1] * 7,
    "runs, one of them of the base": [0, 0, -1, -1, 2, 2, 2],
    "in turns": [0, 2, -1, 0, 2, -1, 0],
    "slots beside each other, not in order": [2, 1, 2, 1, 0, 0, -1],
    "more of one than of the other": [0, 0, 1],
    "more of one than of the other, apart": [2, -1, 0, 0, 0],
    "none": [-1] * 7,
}


def case(slots: list[int], dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    """(inputs, A, B, what the base gives, that with each row's adapter at a scaling of 2)."""
    torch.manual_seed(0)
    x, base = torch.randn(len(slots), IN, dtype=dtype), torch.randn(len(slots), OUT, dtype=dtype)
    a, b = torch.randn(SLOTS, 1, RANK, IN, dtype=dtype), torch.randn(SLOTS, 1, OUT, RANK, dtype=dtype)
    wanted = base.clone()
    for row, slot in enumerate(slots):
        if slot >= 0:
            wanted[row] += b[slot, 0] @ (2.0 * (a[slot, 0] @ x[row]))
    return x, a, b, base, wanted


def runs_of(slots: list[int]) -> tuple[Any, ...]:
    """As vLLM tells of rows that lie side by side: starts, lengths, slots, and three sizes."""
    found, lengths = torch.unique_consecutive(torch.tensor(slots), return_counts=True)
    starts = lengths.cumsum(0) - lengths
    return starts, lengths, found, len(found), int(lengths.max()), len(slots)


@pytest.mark.parametrize("large", [0, 1 << 14], ids=["one by one", "at once"])
@pytest.mark.parametrize("slots", MIXES.values(), ids=MIXES.keys())
def test_each_row_gets_its_own_adapter_and_a_row_of_the_base_none(slots, large, monkeypatch):
    """Also where matrices are so large that they are not copied together."""
    monkeypatch.setattr(ours, "_LARGE", large)
    monkeypatch.setattr(ours, "_LITTLE", large)
    x, a, b, base, wanted = case(slots)
    shrunk, found = torch.zeros(len(slots), RANK), base.clone()
    ours.bgmv_shrink(x, a, shrunk, torch.tensor(slots), 2.0)
    ours.bgmv_expand(shrunk, b, found, torch.tensor(slots), True)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("slots", MIXES.values(), ids=MIXES.keys())
def test_so_it_does_told_by_runs_and_into_some_columns(slots):
    x, a, b, base, wanted = case(slots)
    shrunk, found = torch.zeros(len(slots), RANK), torch.cat([torch.ones(len(slots), 1), base], dim=1)
    ours.sgmv_shrink(x, a, shrunk, *runs_of(slots), 2.0)
    ours.sgmv_expand_slice(shrunk, b, found, *runs_of(slots), 1, OUT, True)
    torch.testing.assert_close(found[:, 1:], wanted)
    assert torch.equal(found[:, 0], torch.ones(len(slots)))


def test_one_slot_stands_for_all_rows():
    x, a, b, base, wanted = case([1] * 7)
    shrunk, found = torch.zeros(7, RANK), base.clone()
    ours.bgmv_shrink(x, a, shrunk, torch.tensor([1]), 2.0)
    ours.bgmv_expand(shrunk, b, found, torch.tensor([1]))
    torch.testing.assert_close(found, wanted)


def test_without_adding_what_was_there_goes():
    _, _, b, base, _ = case([0, -1, 1])
    found = base.clone()
    ours.sgmv_expand(torch.ones(3, RANK), b, found, *runs_of([0, -1, 1]))
    torch.testing.assert_close(found, torch.stack([b[0, 0].sum(1), torch.zeros(OUT), b[1, 0].sum(1)]))


def test_weights_may_be_padded_otherwise_than_the_output():
    _, _, b, _, _ = case([0])
    narrow, wide = torch.zeros(1, OUT - 1), torch.zeros(1, OUT + 1)
    for found in (narrow, wide):
        ours.bgmv_expand(torch.ones(1, RANK), b, found, torch.tensor([0]))
    torch.testing.assert_close(narrow[0], b[0, 0].sum(1)[: OUT - 1])
    torch.testing.assert_close(wide[0], torch.cat([b[0, 0].sum(1), torch.zeros(1)]))


def test_products_are_in_the_outputs_type():
    x, a, b, base, wanted = case([0, 0, 1], torch.bfloat16)
    shrunk, found = torch.zeros(3, RANK), base.clone()  # vLLM's buffer is float32
    ours.bgmv_shrink(x, a, shrunk, torch.tensor([0, 0, 1]), 2.0)
    ours.bgmv_expand(shrunk, b, found, torch.tensor([0, 0, 1]))
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, wanted, rtol=0.05, atol=0.05)


def test_rows_without_an_adapter_told_of_each_are_no_guess():
    with pytest.raises(ValueError, match="5 rows and 3 adapters"):
        ours.bgmv_shrink(torch.ones(5, IN), torch.ones(1, RANK, IN), torch.zeros(5, RANK), torch.tensor([0, 0, 0]))


@pytest.mark.parametrize("slots", MIXES.values(), ids=MIXES.keys())
def test_what_lies_beyond_the_largest_rank_of_the_batch_is_not_read(slots):
    """Zeros, where vLLM has filled a slot up; here nothing that could be multiplied."""
    x, a, b, base, wanted = case(slots)
    wide = torch.full((SLOTS, 1, RANK + 3, IN), torch.nan), torch.full((SLOTS, 1, OUT, RANK + 3), torch.nan)
    wide[0][:, :, :RANK], wide[1][..., :RANK] = a, b
    for weights in wide:
        weights.ranks = dict.fromkeys(range(SLOTS), RANK)
    shrunk, found = torch.zeros(len(slots), RANK + 3), base.clone()
    ours.sgmv_shrink(x, wide[0], shrunk, *runs_of(slots), 2.0)
    ours.sgmv_expand(shrunk, wide[1], found, *runs_of(slots), True)
    torch.testing.assert_close(found, wanted)
    assert not shrunk[:, RANK:].any()
