"""LoRA adapters through PEFT: attach, continue, merge."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel

from fettle.errors import UserError
from fettle.models.base import load_weights
from fettle.recipe.adapter import LoraSpec


def attach(model: PreTrainedModel, spec: LoraSpec, base: Path, seed: int) -> PeftModel:
    """`model` with a fresh adapter that changes nothing yet (B = 0), initialised the same on every worker.

    Raises UserError where `targets` names no module of the model.
    """
    torch.manual_seed(seed)
    targets = spec.targets if isinstance(spec.targets, str) else list(spec.targets)
    config = LoraConfig(
        r=spec.r,
        lora_alpha=spec.alpha,  # type: ignore[arg-type]  # PEFT scales by a float just as well
        lora_dropout=spec.dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
        base_model_name_or_path=str(base),
    )
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        names = sorted({name.rpartition(".")[2] for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)})
        raise UserError(f"{error}", field="adapter.targets", expected=", ".join(names)) from error


def resume(model: PreTrainedModel, adapter: Path) -> PeftModel:
    """`model` with the adapter in a folder, trainable."""
    return PeftModel.from_pretrained(model, adapter, is_trainable=True)


def merged(base: Path, adapter: Path, dtype: torch.dtype) -> PreTrainedModel:
    """The base's weights with the adapter's update added, computed in float32, given in `dtype`, all trainable."""
    model = PeftModel.from_pretrained(load_weights(base, torch.float32), adapter)
    return model.merge_and_unload().requires_grad_().to(dtype)  # PEFT had frozen them
