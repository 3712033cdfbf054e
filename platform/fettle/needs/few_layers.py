"""Models of random weights, or of none: of a configuration, or of a few of its layers, that stand for all of them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch

from fettle.models.attention import Attention, called
from fettle.models.family import auto_class, family_of_config
from fettle.models.layers import freeze_below, layers_of
from fettle.models.precision import LOW, frozen_dtype
from fettle.recipe.adapter import FULL, AdapterSpec
from fettle.recipe.cluster import Precision


def fresh_model(
    config: Any,
    adapter: AdapterSpec = FULL,
    frozen: int | None = None,
    dtype: torch.dtype = torch.float32,
    attention: Attention | None = None,
    device: str = "meta",
) -> Any:
    """Of a configuration, with an adapter, of random weights. frozen: so many of the lower layers are not trained.
    dtype: of the model's own weights. attention: as a recipe says it."""
    from fettle.models.adapters import attach

    options: Any = {"attn_implementation": called(attention, config), "trust_remote_code": False, "dtype": dtype}
    with torch.device(device), torch.random.fork_rng(devices=[]):
        model = auto_class(family_of_config(config)).from_config(config, **options)
        for layer in layers_of(model.base_model)[: frozen or 0]:
            layer.requires_grad_(False)
        if adapter.kind == "freeze":
            freeze_below(model, adapter.layers or 0)
        if adapter.is_beside:
            spec = adapter.model_copy(
                update={"bits": None}
            )  # of its input a rounded matrix keeps what a frozen one does
            model = attach(model, spec, Path(), 0)
    return model


def few_layers(
    config: Any,
    depth: int,
    adapter: AdapterSpec,
    precision: Precision,
    attention: Attention | None,
    *,
    frozen: int | None = None,
    device: str = "meta",
) -> Any:
    """As `fresh_model`, of so many layers, its weights in the type in which training has them; to be called in the
    precision's autocast, as training does."""
    from fettle.models.adapters import cast_by_autocast_alone

    dtype = frozen_dtype(precision) if adapter.is_beside else torch.float32
    model = fresh_model(_of_depth(config, depth), adapter, frozen, dtype, attention, device)
    if precision in LOW:
        cast_by_autocast_alone(model)
    return model


def checkpoint_layers(model: Any, adapter: AdapterSpec) -> None:
    """Has a model compute each layer again on the way back, as training does."""
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if adapter.is_beside:
        model.enable_input_require_grads()


def cycle_of(config: Any) -> int:
    """Layers after which their types come again."""
    types = getattr(config.get_text_config(), "layer_types", None) or [None]
    return len(dict.fromkeys(types))


def _of_depth(config: Any, depth: int) -> Any:
    small = copy.deepcopy(config)
    text = small.get_text_config()
    types = getattr(text, "layer_types", None)
    if types:
        text.layer_types = (list(dict.fromkeys(types)) * depth)[:depth]
    text.num_hidden_layers = depth
    if getattr(text, "num_decoder_layers", None):
        text.num_decoder_layers = depth
    return small
