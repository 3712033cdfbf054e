"""Which adapters can become full weights, told from their folder's configuration, without loading anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fettle.models.adapter_folder import kind_in
from fettle.recipe.adapter import AdapterSpec

_MERGEABLE = ("lora", "dora", "ia3")
_HEADS = ("score", "classifier")


def why_not_merged(adapter: Path, *, several: bool) -> str | None:
    """Why the adapter in a folder cannot be merged (with others, where `several`); None where it can."""
    config: dict[str, Any] = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    kind = str(config.get("peft_type"))
    if reason := why_beside_for_good(kind_in(adapter)):
        return reason
    kept = config.get("modules_to_save") or []
    if config.get("task_type") == "SEQ_CLS" or set(kept) & set(_HEADS):
        return "it has a head of its own (a reward model or classifier), which a language model has not"
    return _why_not_with_others(kind, config) if several else None


def why_not_made(spec: AdapterSpec, *, several: bool) -> str | None:
    """The same of an adapter that a stage will make."""
    if reason := why_beside_for_good(spec.kind):
        return reason
    return f"it is of kind {spec.kind}; only LoRA adapters are combined" if several and spec.kind != "lora" else None


def why_beside_for_good(kind: str) -> str | None:
    """Why no adapter of this kind can be merged; None where those of the kind can."""
    return (
        None if kind in _MERGEABLE else f"it is of kind {kind}, which works beside the weights and is no update of them"
    )


def _why_not_with_others(kind: str, config: dict[str, Any]) -> str | None:
    """Combining needs an update of each weight matrix alone: LoRA's B A, and nothing else."""
    told = {
        f"it is of kind {kind}": kind != "LORA",
        "it is DoRA, whose update is no sum": config.get("use_dora"),
        f"it holds whole modules ({config.get('modules_to_save')})": config.get("modules_to_save"),
        "it holds biases": config.get("bias", "none") != "none" or config.get("lora_bias"),
        "it holds rows of the embeddings": config.get("trainable_token_indices"),
        "it is on parameters without a layer of their own": config.get("target_parameters"),
    }
    found = next((reason for reason, holds in told.items() if holds), None)
    return f"{found}; only LoRA adapters are combined" if found else None
