"""LoRA adapters through PEFT: attach, continue, merge."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from peft.utils.other import _set_trainable
from transformers import PreTrainedModel

from fettle.errors import UserError
from fettle.models.heads import HEAD, has_head
from fettle.models.tied import untie
from fettle.recipe.adapter import AdapterSpec


def attach(model: PreTrainedModel, spec: AdapterSpec, base: Path, seed: int) -> PeftModel:
    """`model` with a fresh adapter that changes nothing yet (B = 0), initialised the same on every worker.

    Raises UserError where `targets` names no module of the model.
    """
    torch.manual_seed(seed)
    assert spec.r is not None and spec.targets is not None and spec.dropout is not None
    targets = spec.targets if isinstance(spec.targets, str) else list(spec.targets)
    config = LoraConfig(
        r=spec.r,
        lora_alpha=spec.alpha,  # type: ignore[arg-type]  # PEFT scales by a float just as well
        lora_dropout=spec.dropout,
        target_modules=targets,
        task_type=_task_type(model),
        base_model_name_or_path=str(base),
    )
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        names = sorted({name.rpartition(".")[2] for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)})
        raise UserError(f"{error}", field="adapter.targets", expected=", ".join(names)) from error


def resume(model: PreTrainedModel, adapter: Path) -> PeftModel:
    """`model` with the adapter in a folder, trainable."""
    return _over(model, adapter, is_trainable=True)


def merged(model: PreTrainedModel, adapter: Path, dtype: torch.dtype) -> PreTrainedModel:
    """The base `model`, in float32, with the adapter's update added, given in `dtype`, all trainable."""
    whole = _over(model, adapter)
    untie(whole)
    return whole.merge_and_unload().requires_grad_().to(dtype)  # PEFT had frozen them


def _over(model: PreTrainedModel, adapter: Path, *, is_trainable: bool = False) -> PeftModel:
    """`model` with the adapter in a folder, its head too; over a head, a language model's adapter is given a copy of it
    to train."""
    config = PeftConfig.from_pretrained(str(adapter))
    config.inference_mode = not is_trainable
    gains_head = has_head(model) and config.task_type == "CAUSAL_LM"
    if gains_head:  # with a task type PEFT would look for a head in the folder
        config.task_type = None
    whole = PeftModel.from_pretrained(model, adapter, config=config, is_trainable=is_trainable)
    if gains_head and is_trainable:
        config.task_type, config.modules_to_save = "SEQ_CLS", [HEAD]
        _set_trainable(whole, "default", module_names=[HEAD], inference_mode=False)  # as PEFT's own SEQ_CLS model does
    return whole


def _task_type(model: PreTrainedModel) -> str:
    """PEFT's word for what the model does; a head is trained and saved with its adapter."""
    return "SEQ_CLS" if has_head(model) else "CAUSAL_LM"
