"""A model's sizes, told from its configuration alone: no weights are read."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fettle.models.layers import layers_of
from fettle.needs.few_layers import fresh_model
from fettle.needs.trace import config_of
from fettle.recipe.adapter import AdapterSpec


@dataclass(frozen=True)
class Shape:
    """Numbers of weights. layer: of one layer (their mean). linear: of the matrices that `bits` rounds, in all layers;
    sides: rows and columns of those.
    head: of the output head where it is no embedding too. largest: of the largest weight. stored: bytes of each weight
    as the model lies on the disk. config: `needs.trace.config_text` of it. active: weights that one token goes through,
    without embeddings (fewer than there are in a mixture of experts)."""

    config: str
    weights: int
    layers: int
    layer: int
    linear: int
    sides: int
    embeddings: int
    head: int
    largest: int
    stored: int
    hidden: int
    vocabulary: int
    active: int

    @property
    def outside(self) -> int:
        """Weights that are in no layer."""
        return self.weights - self.layers * self.layer


@functools.lru_cache(maxsize=64)
def shape_of(config_json: str) -> Shape:
    """By `needs.trace.config_text`."""
    config = config_of(config_json)
    stored = getattr(config, "dtype", None) or getattr(config.get_text_config(), "dtype", None) or torch.float32
    model = fresh_model(config)
    layers = layers_of(model.base_model)
    inside = sum(weight.numel() for weight in layers.parameters())
    entries, output = model.get_input_embeddings(), model.get_output_embeddings()
    matrices: list[Any] = [
        one for one in model.modules() if type(one).__name__ in ("Linear", "Conv1D") and one is not output
    ]
    linear = sum(one.weight.numel() for one in matrices)
    sides = sum(sum(one.weight.shape) for one in matrices)
    embeddings = entries.weight.numel()
    is_tied = output is None or output.weight is entries.weight
    sizes = [weight.numel() for weight in model.parameters()]
    text = config.get_text_config()
    head = 0 if is_tied else output.weight.numel()
    return Shape(
        config=config_json,
        weights=sum(sizes),
        layers=len(layers),
        layer=inside // len(layers),
        linear=linear,
        sides=sides,
        embeddings=embeddings,
        head=head,
        largest=max(sizes),
        stored=_bytes_of(stored),
        hidden=int(text.hidden_size),
        vocabulary=int(text.vocab_size),
        active=_active(text, sum(sizes) - embeddings - head) + (output.weight.numel() if output is not None else 0),
    )


@functools.lru_cache(maxsize=256)
def trained_weights(shape: Shape, adapter: AdapterSpec) -> int:
    """How many weights a stage with this adapter moves at a time."""
    if adapter.kind == "full":
        return shape.weights
    if adapter.kind == "lisa":
        return shape.outside + min(adapter.layers or 0, shape.layers) * shape.layer
    if adapter.kind == "lora" and adapter.targets == "all-linear":
        return (adapter.r or 0) * shape.sides
    if adapter.kind == "freeze":
        return (
            shape.outside
            - (shape.embeddings if shape.head else 0)
            + min(adapter.layers or 0, shape.layers) * shape.layer
        )
    model = fresh_model(config_of(shape.config), adapter)
    return sum(weight.numel() for weight in model.parameters() if weight.requires_grad)


def _active(text: Any, inside: int) -> int:
    """Of the weights in the layers those that a token goes through."""
    experts = getattr(text, "num_local_experts", None) or getattr(text, "num_experts", None) or 0
    width = getattr(text, "moe_intermediate_size", None) or getattr(text, "intermediate_size", 0)
    if not experts or not width:
        return inside
    unused = experts - int(getattr(text, "num_experts_per_tok", 1))
    return max(inside // experts, inside - text.num_hidden_layers * unused * 3 * text.hidden_size * width)


def _bytes_of(dtype: Any) -> int:
    found = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    return torch.empty(0, dtype=found).element_size()


def config_in(folder: Path) -> Any:
    """The configuration of the model in a folder."""
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(folder, trust_remote_code=False)
