"""Bugs of vLLM that we mend, each with its test; applied in every process that holds a worker by importing this."""

from __future__ import annotations

from typing import Any

import torch
from vllm.lora import model_manager
from vllm.lora.ops.torch_ops import lora_ops
from vllm.lora.punica_wrapper import punica_cpu
from vllm.model_executor.layers.activation import get_act_fn
from vllm.model_executor.models import bloom

from fettle.engine import lora_products

_PRODUCTS = ("bgmv_shrink", "bgmv_expand", "bgmv_expand_slice", "sgmv_shrink", "sgmv_expand", "sgmv_expand_slice")


class WorkerExtension:
    """Named to vLLM as `worker_extension_cls`: so this module is imported wherever a worker is made, before it runs."""


def multiply_rows_together() -> None:
    """LoRA's products on a CPU are `lora_products`': faster by far, and right for rows without an adapter.

    Upstream (0.32.0, vllm/lora/ops/torch_ops/lora_ops.py) marks such a row with slot -1 and indexes the weights with
    it: in a batch where other rows have one, it gets the adapter of the last slot, and its log-probabilities are off by
    1 to 2 nats. Linear, embedding and logits layers all pass through these six.
    """
    for name in _PRODUCTS:
        setattr(punica_cpu, name, getattr(lora_products, name))


def tell_ranks() -> None:
    """LoRA's matrices know the rank of the adapter in each slot, for `lora_products` to leave the rest out."""
    upstream = model_manager.LoRAModelManager.activate_adapter
    if getattr(upstream, "tells_ranks", False):
        return

    def activate_adapter(self: Any, lora_id: int) -> bool:
        has_moved = upstream(self, lora_id)
        if has_moved:
            ranks = self.__dict__.setdefault("_ranks", {})  # one of all matrices of an engine
            ranks[self.lora_index_to_id.index(lora_id)] = _largest_rank(self._registered_adapters[lora_id])
            for module in self.modules.values():
                for stacked in (getattr(module, "lora_a_stacked", ()), getattr(module, "lora_b_stacked", ())):
                    for weights in stacked if isinstance(stacked, (tuple, list)) else ():
                        weights.ranks = ranks
        return has_moved

    activate_adapter.tells_ranks = True  # type: ignore[attr-defined]
    model_manager.LoRAModelManager.activate_adapter = activate_adapter  # type: ignore[method-assign]


def _largest_rank(adapter: Any) -> int:
    """Of its layers, which may have their own (PEFT's `rank_pattern`)."""
    matrices = (layer.lora_a for layer in adapter.loras.values())
    each = (one for some in matrices for one in (some if isinstance(some, (tuple, list)) else [some]))
    return max((one.shape[0] for one in each if one is not None), default=1)


def approximate_blooms_gelu() -> None:
    """BLOOM's activation is GELU's approximation by tanh, as it was trained with and as transformers has it.

    Upstream (0.32.0, vllm/model_executor/models/bloom.py) computes GELU exactly: log-probabilities are off by 3e-4 nats
    in a model of two layers.
    """
    bloom.get_act_fn = _with_approximate_gelu


def _with_approximate_gelu(act_fn_name: str) -> torch.nn.Module:
    return get_act_fn("gelu_pytorch_tanh" if act_fn_name == "gelu" else act_fn_name)


def survive_prompt_logprobs() -> None:
    """Log-probabilities of prompts do not end an engine with LoRA layers in which several requests run.

    Upstream (0.32.0, vllm/lora/punica_wrapper/punica_cpu.py) gives the output head one adapter for each row that is
    sampled from, where a prompt's rows are as many as its tokens, and multiplies the two. Where no adapter is on the
    head, as none of fettle's is by default, there is nothing to add.
    """
    wrapper: Any = punica_cpu.PunicaWrapperCPU
    upstream = wrapper.add_lora_logits
    if getattr(upstream, "survives", False):
        return

    def add_lora_logits(self: Any, y: Any, x: Any, lora_a: Any, lora_b: Any, *rest: Any, **named: Any) -> None:
        if len(self.sampler_indices) not in (1, x.numel() // x.shape[-1]) and not lora_b.any():
            return
        upstream(self, y, x, lora_a, lora_b, *rest, **named)

    add_lora_logits.survives = True  # type: ignore[attr-defined]
    wrapper.add_lora_logits = add_lora_logits


def permit_amx() -> None:
    """Asks Linux for this process's use of the CPU's matrix registers, which it grants on request alone.

    Upstream (0.32.0) computes attention in bfloat16 with them and does not ask: where no other library has asked
    before, as in a process that only serves, the first request ends with an illegal instruction.
    """
    if torch.cpu._is_amx_tile_supported():
        torch.cpu._init_amx()


def restore_upstream() -> None:
    """Undoes `multiply_rows_together`, for the test that shows the bug."""
    for name in _PRODUCTS:
        setattr(punica_cpu, name, getattr(lora_ops, name))


multiply_rows_together()
tell_ranks()
approximate_blooms_gelu()
survive_prompt_logprobs()
permit_amx()
