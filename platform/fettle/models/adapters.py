"""Adapters beside frozen weights: attached, continued, restored, merged. PEFT's, but for bottlenecks."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import (
    IA3Config,
    LoraConfig,
    PeftConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from transformers import PreTrainedModel

from fettle.errors import UserError
from fettle.models.bottleneck import KIND, BottleneckModel
from fettle.models.heads import ROWS, has_head, head_names, reads_first
from fettle.models.ia3 import ia3_places
from fettle.models.label_rows import carry_over, labels_in
from fettle.models.tied import untie
from fettle.models.virtual_tokens import over_packed_rows
from fettle.recipe.adapter import AdapterSpec

BESIDE = "critic"
"""What a part of the model is called that learns beside the adapter and is none of it: rl/critic.py."""
_PREFIX_STD = 0.02  # of keys and values; PEFT's own 1 drowns what the model attends to


def attach(model: PreTrainedModel, spec: AdapterSpec, base: Path, seed: int) -> PeftModel:
    """`model`, frozen, with a fresh adapter, initialised the same on every worker. It changes nothing yet, but for
    prefix (small random keys and values) and prompt (the embeddings of tokens drawn from the vocabulary).

    Raises UserError where the model has no places for it.
    """
    torch.manual_seed(seed)
    if spec.kind == "bottleneck":
        assert spec.size is not None
        return BottleneckModel(model, spec.size, str(base))
    try:
        found = _wrapped(model, _config(model, spec, base))
    except ValueError as error:
        names = sorted({name.rpartition(".")[2] for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)})
        raise UserError(f"{error}", field="adapter.targets", expected=", ".join(names)) from error
    if spec.kind == "prefix":
        encoder: Any = found.prompt_encoder["default"]
        torch.nn.init.normal_(encoder.embedding.weight, std=_PREFIX_STD)
    return found


def resume(model: PreTrainedModel, adapter: Path) -> PeftModel:
    """`model` with the adapter in a folder, its head too, trainable. Over a head, a language model's adapter is given
    a copy of it to train."""
    told = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    if told["peft_type"] == KIND:
        found: PeftModel = BottleneckModel(model, told["size"], told["base_model_name_or_path"])
    else:
        config = PeftConfig.from_pretrained(str(adapter))
        config.inference_mode, config.task_type = False, _task_type(model)
        for key, value in _around_head(model).items():
            setattr(config, key, value)
        found = _wrapped(model, config)
    restore(found, adapter)
    return found


def restore(model: PeftModel, folder: Path) -> None:
    """The weights of an adapter of the same kind, in the folder of a checkpoint or an artifact, in place of its own; a
    head that is not there stays as it is.

    Raises UserError where others are not there.
    """
    state = load_file(folder / "adapter_model.safetensors")
    if isinstance(model, BottleneckModel):
        model.restore(state)
        return
    with alone(model):
        own = get_peft_model_state_dict(model, save_embedding_layers=False)
        head = getattr(model, "modules_to_save", None) or ()
        if lacking := [name for name in own if name not in state and not any(f".{part}." in name for part in head)]:
            raise UserError(f"this adapter was not made for this model: it has no {lacking[0]}", file=folder)
        set_peft_model_state_dict(model, own | state | _rows_carried_over(model, own, state, folder))


@contextmanager
def alone(model: Any) -> Iterator[None]:
    """What learns beside the adapter is not in the model inside: PEFT would take it for a part of the adapter."""
    part = model._modules.pop(BESIDE, None)
    try:
        yield
    finally:
        if part is not None:
            model.add_module(BESIDE, part)


def cast_by_autocast_alone(model: Any) -> None:
    """Has LoRA take its inputs as they come, in a model whose forward is autocast from now on.

    PEFT casts each to float32, the type of its matrices, and autocast back again at once: the same numbers, with a
    twelfth of a small model's step on a CPU for it. Not of DoRA and its like, which compute norms in an input's type.
    """
    for module in model.modules():
        if isinstance(module, LoraLayer) and not module.lora_variant:
            module.cast_input_dtype_enabled = False


def merged(model: PreTrainedModel, adapter: Path, dtype: torch.dtype) -> PreTrainedModel:
    """The base `model`, in float32, with the adapter's update added, given in `dtype`, all trainable."""
    whole = resume(model, adapter)
    untie(whole)
    return whole.merge_and_unload().requires_grad_().to(dtype)  # PEFT had frozen them


def _rows_carried_over(
    model: PeftModel, own: dict[str, torch.Tensor], state: dict[str, torch.Tensor], folder: Path
) -> dict[str, torch.Tensor]:
    """The rows of the model's head, `own`, with those of the labels that the classifier in a folder, `state`, knew;
    none where it is no classifier, or one with the same labels."""
    labels, earlier = tuple(model.config.id2label.values()), labels_in(folder)
    if not earlier or earlier == labels:
        return {}
    rows = [name for name in state if name.rpartition(".")[0].endswith(tuple(f".{row}" for row in ROWS))]
    return {name: carry_over(own[name], labels, state[name], earlier) for name in rows}


def _wrapped(model: PreTrainedModel, config: PeftConfig) -> PeftModel:
    base = config.base_model_name_or_path
    with warnings.catch_warnings():  # where the model was not loaded by that very name
        warnings.filterwarnings("ignore", message="The PEFT config's `base_model_name_or_path`")
        found = get_peft_model(model, config)
    config.base_model_name_or_path = base
    assert isinstance(found, PeftModel)
    return over_packed_rows(found) if config.is_prompt_learning else found


def _config(model: PreTrainedModel, spec: AdapterSpec, base: Path) -> PeftConfig:
    """PEFT's words for a recipe's adapter."""
    told: dict[str, Any] = {"task_type": _task_type(model), "base_model_name_or_path": str(base)}
    around = _around_head(model)
    if spec.kind == "ia3":
        places, feed_forward = ia3_places(name for name, _ in model.named_modules())
        if not places:
            raise UserError(f"{model.config.model_type} models have no keys and values by the usual names")
        return IA3Config(target_modules=places, feedforward_modules=feed_forward, **told | around)
    if spec.kind == "prefix":
        # PEFT would take the width of a head from the hidden size, which some models (Qwen3) do not go by.
        config: Any = model.config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        sizes = {"num_attention_heads": heads, "token_dim": heads * width, "num_layers": config.num_hidden_layers}
        return PrefixTuningConfig(**sizes, **told | {"num_virtual_tokens": spec.tokens})
    if spec.kind == "prompt":
        return PromptTuningConfig(prompt_tuning_init="SAMPLE_VOCAB", **told | {"num_virtual_tokens": spec.tokens})
    assert spec.r is not None and spec.targets is not None and spec.dropout is not None
    return LoraConfig(
        r=spec.r,
        lora_alpha=spec.alpha,  # type: ignore[arg-type]  # PEFT scales by a float just as well
        lora_dropout=spec.dropout,
        target_modules=spec.targets if isinstance(spec.targets, str) else list(spec.targets),
        use_rslora=bool(spec.rslora),
        use_dora=spec.kind == "dora",
        **told | around,
    )


def _around_head(model: PreTrainedModel) -> dict[str, list[str]]:
    """What PEFT does not know of an encoder's head: all its modules are trained, and none gets an adapter."""
    if not has_head(model) or not reads_first(model):
        return {}
    head = head_names(model)
    layers = [name for name, _ in model.named_modules() if name.startswith(tuple(f"{part}." for part in head))]
    return {"modules_to_save": list(head), "exclude_modules": [*head, *layers]}


def _task_type(model: PreTrainedModel) -> str | None:
    """PEFT's word for what the model does; a head is trained and saved with its adapter. A masked language model's is
    none: PEFT's class for causal ones wants it to generate."""
    if has_head(model):
        return "SEQ_CLS"
    if model.config.is_encoder_decoder:
        return "SEQ_2_SEQ_LM"
    return "CAUSAL_LM" if model.can_generate() else None
