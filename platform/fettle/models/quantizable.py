"""Which models can be quantised, told from their configuration, without loading a weight."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoConfig

from fettle.errors import UserError
from fettle.recipe.quantize import GROUPS

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_CAUSAL = ("ForCausalLM", "LMHeadModel")
# vLLM's CPU kernel of 4-bit weights takes no other inputs and outputs of a layer; its GPU kernels pad.
_MULTIPLE = 32


def check_quantizable(folder: Path, group: int | None, **where: Any) -> None:
    """Raises UserError unless every matrix of the model is a linear layer's, which can be quantised, or an embedding.

    group: weights that share a scale (4 bits), which has to divide every layer's inputs; None for a row (8 bits).
    """
    # Here, because every driver imports this file, and only one that quantises needs the classes of models (3 s).
    from transformers import AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    named = config.architectures or []
    if named and not any(name.endswith(_CAUSAL) for name in named):
        raise UserError(f"a {named[0]} is no causal language model", **where, expected="one, like Llama or Qwen")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    for name, module in model.named_modules():
        if isinstance(module, (torch.nn.Linear, torch.nn.Embedding)):
            continue
        for key, parameter in module.named_parameters(recurse=False):
            if parameter.ndim > 1:
                raise UserError(
                    f"the weights of {name}.{key} ({type(module).__name__}) are no linear layer's and would stay full",
                    **where,
                    expected="a model of linear layers, like Llama, Mistral, Qwen or Gemma",
                )
    if group is not None:
        _check_sizes(model, group, where)


def quantized_layers(model: PreTrainedModel) -> dict[str, torch.nn.Linear]:
    """The linear layers by name, but for the output head, whose errors nothing after it makes up for."""
    head: Any = model.get_output_embeddings()
    linear = {name: one for name, one in model.named_modules() if isinstance(one, torch.nn.Linear)}
    return {name: one for name, one in linear.items() if one is not head}


def _check_sizes(model: PreTrainedModel, group: int, where: dict[str, Any]) -> None:
    layers = quantized_layers(model)
    for name, layer in layers.items():
        if layer.in_features % _MULTIPLE or layer.out_features % _MULTIPLE:
            raise UserError(
                f"{name} is {layer.out_features} x {layer.in_features}; vLLM's CPU kernel of 4-bit weights takes "
                f"multiples of {_MULTIPLE}",
                **where,
                fix="set bits: 8",
            )
    uneven = next((one for one in layers.items() if one[1].in_features % group), None)
    if uneven is None:
        return
    fits = next(size for size in GROUPS if not any(layer.in_features % size for layer in layers.values()))
    raise UserError(
        f"groups of {group} do not divide the {uneven[1].in_features} inputs of {uneven[0]}",
        **where,
        fix=f"set group: {fits}",
    )
