"""vLLM's bugs as we found them, and that they are mended."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

pytest.importorskip("vllm.lora.punica_wrapper.punica_cpu")
from vllm.lora.ops.torch_ops import lora_ops

from fettle.engine import patches

# Two slots of B [slots, out, rank], rank 1 and width 1: slot 0 doubles, slot 1 times 10.
B = torch.tensor([[[2.0]], [[10.0]]])
# Rows: adapter in slot 0, base (-1), adapter in slot 1.
SLOTS = torch.tensor([0, -1, 1])


@pytest.fixture
def upstream() -> Iterator[None]:
    patches.restore_upstream()
    yield
    patches.keep_base_rows()


def expanded() -> list[float]:
    rows = torch.zeros(3, 1)
    lora_ops.bgmv_expand(torch.ones(3, 1), B, rows, SLOTS, True)
    return rows.flatten().tolist()


@pytest.mark.usefixtures("upstream")
def test_upstream_gives_base_rows_the_last_slots_adapter() -> None:
    """When this fails, vLLM has mended it: delete the patch."""
    assert expanded() == [2.0, 10.0, 10.0]


def test_base_rows_keep_the_bases_output() -> None:
    assert expanded() == [2.0, 0.0, 10.0]


def test_base_rows_are_kept_in_slices_too() -> None:
    rows = torch.zeros(3, 2)
    lora_ops.bgmv_expand_slice(torch.ones(3, 1), B, rows, SLOTS, 1, 1, True)

    assert rows.tolist() == [[0.0, 2.0], [0.0, 0.0], [0.0, 10.0]]


def test_base_rows_are_kept_in_prefill_where_rows_are_grouped() -> None:
    rows = torch.zeros(4, 1)
    lengths = torch.tensor([1, 2, 1])
    lora_ops.sgmv_expand(torch.ones(4, 1), B, rows, torch.tensor([0, 1, 3]), lengths, SLOTS, 3, 2, 4, True)

    assert rows.flatten().tolist() == [2.0, 0.0, 0.0, 10.0]


def test_patching_twice_is_patching_once() -> None:
    before = lora_ops.bgmv_expand

    patches.keep_base_rows()

    assert lora_ops.bgmv_expand is before


def test_blooms_activation_is_that_of_transformers() -> None:
    """vLLM takes the exact GELU, off by up to 5e-4. When its bloom.py no longer asks for "gelu", delete the patch."""
    from transformers.models.bloom.modeling_bloom import bloom_gelu_forward
    from vllm.model_executor.models import bloom

    values = torch.linspace(-4, 4, 101)

    torch.testing.assert_close(bloom.get_act_fn("gelu")(values), bloom_gelu_forward(values))
