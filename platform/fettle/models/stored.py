"""In what a loaded model's weights lie: a torch type, or, frozen, four or eight bits by bitsandbytes."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from transformers import AutoConfig

from fettle.models.attention import attention_of
from fettle.models.base import dtype_of
from fettle.models.shared import kept

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Quantised:
    """Linear layers but the output head in NF4 with double quantisation (Dettmers et al. 2023, arXiv:2305.14314,
    section 3) or in LLM.int8() (Dettmers et al. 2022, arXiv:2208.07339); all else, and the arithmetic, in `compute`."""

    bits: Literal[4, 8]
    compute: torch.dtype


Stored = torch.dtype | Quantised


def load(kind: Any, folder: Path | None, stored: Stored, **more: Any) -> PreTrainedModel:
    """The model in `folder` by one of transformers' classes. more: for its `from_pretrained`."""
    config = more.get("config") or AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
    options = {"attn_implementation": attention_of(config), "use_safetensors": True, "trust_remote_code": False}

    def loaded(folder: Path | None) -> PreTrainedModel:
        model: PreTrainedModel = kind.from_pretrained(folder, **_arguments(stored), **options, **more)
        if isinstance(stored, Quantised):
            _settle(model)
        return model

    if isinstance(stored, Quantised) or folder is None or more:  # bitsandbytes' modules keep states of their own
        return loaded(folder)
    return kept((kind.__name__, str(folder), str(stored)), folder, loaded, is_mapped=dtype_of(folder) == stored)


def _arguments(stored: Stored) -> dict[str, Any]:
    if isinstance(stored, torch.dtype):
        return {"dtype": stored}
    from transformers import BitsAndBytesConfig

    config = (
        BitsAndBytesConfig(load_in_8bit=True)
        if stored.bits == 8
        else BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=stored.compute,
        )
    )
    device: Any = torch.cuda.current_device() if torch.cuda.is_available() else "cpu"
    return {"dtype": stored.compute, "quantization_config": config, "device_map": {"": device}}


def _settle(model: PreTrainedModel) -> None:
    """Keeps bitsandbytes 0.50 from computing one thing in training and another in evaluation on CPUs, under which a
    preference's reference, say, would be another model than the policy.

    4 bits, with AVX512_BF16: in evaluation it repacks the weights, rounds their scales to bfloat16 while at it, and
    keeps those: after a resume the frozen weights would be others. 8 bits: in training it computes with the weights as
    they are, in evaluation it rounds activations too, by what else is in the batch.
    """
    module: Any
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
        elif type(module).__name__ == "Linear8bitLt" and model.device.type == "cpu":
            module.training = True
            module.train = functools.partial(_stay_in_training, module)


def _stay_in_training(module: torch.nn.Module, mode: bool = True) -> torch.nn.Module:
    return module
