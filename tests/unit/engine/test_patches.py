"""vLLM's bugs as we found them, and that they are mended."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("vllm.lora.punica_wrapper.punica_cpu")
from vllm.lora.ops.torch_ops import lora_ops

from fettle.engine import patches

# Two slots of B [slots, out, rank], rank 1 and width 1: slot 0 doubles, slot 1 times 10.
B = torch.tensor([[[2.0]], [[10.0]]])
# Rows: adapter in slot 0, base (-1), adapter in slot 1.
SLOTS = torch.tensor([0, -1, 1])


def expanded(expand: Any) -> list[float]:
    rows = torch.zeros(3, 1)
    expand(torch.ones(3, 1), B, rows, SLOTS, True)
    return rows.flatten().tolist()


def test_upstream_gives_base_rows_the_last_slots_adapter() -> None:
    """When this fails, vLLM has mended it: see whether its products are as fast, then delete ours."""
    assert expanded(lora_ops.bgmv_expand) == [2.0, 10.0, 10.0]


def test_base_rows_keep_the_bases_output() -> None:
    assert expanded(patches.punica_cpu.bgmv_expand) == [2.0, 0.0, 10.0]


def test_base_rows_are_kept_in_slices_too() -> None:
    rows = torch.zeros(3, 2)
    patches.punica_cpu.bgmv_expand_slice(torch.ones(3, 1), B, rows, SLOTS, 1, 1, True)

    assert rows.tolist() == [[0.0, 2.0], [0.0, 0.0], [0.0, 10.0]]


def test_base_rows_are_kept_in_prefill_where_rows_are_grouped() -> None:
    rows = torch.zeros(4, 1)
    lengths = torch.tensor([1, 2, 1])
    patches.punica_cpu.sgmv_expand(torch.ones(4, 1), B, rows, torch.tensor([0, 1, 3]), lengths, SLOTS, 3, 2, 4, True)

    assert rows.flatten().tolist() == [2.0, 0.0, 0.0, 10.0]


def test_patching_twice_is_patching_once() -> None:
    before = patches.punica_cpu.bgmv_expand

    patches.multiply_rows_together()

    assert patches.punica_cpu.bgmv_expand is before


def test_blooms_activation_is_that_of_transformers() -> None:
    """vLLM takes the exact GELU, off by up to 5e-4. When its bloom.py no longer asks for "gelu", delete the patch."""
    from transformers.models.bloom.modeling_bloom import bloom_gelu_forward
    from vllm.model_executor.models import bloom

    values = torch.linspace(-4, 4, 101)

    torch.testing.assert_close(bloom.get_act_fn("gelu")(values), bloom_gelu_forward(values))


@pytest.mark.parametrize("num_requests", [1, 3])
def test_a_prompts_rows_are_left_alone_where_no_adapter_is_on_the_head(num_requests: int) -> None:
    """Upstream raises with several requests. A prompt of five tokens, two slots of rank 1, a vocabulary of four."""
    wrapper = patches.punica_cpu.PunicaWrapperCPU(16, 4, "cpu")
    wrapper.indices_len[1] = num_requests  # rows that are sampled from
    wrapper._sampler_indices.zero_()
    logits = torch.ones(5, 4)

    wrapper.add_lora_logits(logits, torch.ones(5, 2), torch.ones(2, 1, 1, 2), torch.zeros(2, 1, 4, 1), 1.0)

    assert torch.equal(logits, torch.ones(5, 4))


@pytest.mark.skipif(not torch.cpu._is_amx_tile_supported(), reason="this CPU has no matrix registers")
def test_a_process_that_only_serves_may_use_the_matrix_registers() -> None:
    """Without leave, a process ends at its first request in bfloat16. In one of its own, since leave is for good."""
    ask = "import ctypes; held = ctypes.c_ulong(); ctypes.CDLL(None).syscall(158, 0x1022, ctypes.byref(held))"
    told = f"import fettle.engine.patches; {ask}; print(bool(held.value >> 18 & 1))"  # ARCH_GET_XCOMP_PERM, tile data
    found = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert found.stdout.split()[-1] == "True"


def test_matrices_know_the_largest_rank_of_the_adapter_in_each_slot() -> None:
    stacked = (torch.zeros(2, 1, 8, 4),)
    module = SimpleNamespace(lora_a_stacked=stacked, lora_b_stacked=(), set_lora=lambda *_: None)
    layers = {"plain": torch.ones(3, 4), "packed": [torch.ones(2, 4), None, torch.ones(5, 4)]}
    adapter = SimpleNamespace(id=7, loras={name: SimpleNamespace(lora_a=a, lora_b=a) for name, a in layers.items()})
    manager = SimpleNamespace(
        _active_adapters={},
        _registered_adapters={7: adapter},
        lora_index_to_id=[3, None],
        modules={"plain": module},
        _get_lora_layer_weights=lambda adapter, name: adapter.loras[name],
    )

    assert patches.model_manager.LoRAModelManager.activate_adapter(manager, 7)

    assert stacked[0].ranks == {1: 5}
