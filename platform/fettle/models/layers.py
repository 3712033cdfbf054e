"""The layers of a model: which there are, how deep each weight lies, and taking the deeper ones out of the training.

Depth: 0 the head, 1 the last layer and the norm after it, 2 the layer before that, …, the embeddings last.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch.nn import Embedding, Module, ModuleList
from transformers import AutoConfig

from fettle.models.heads import has_head, head_names


def layers_of(body: Module) -> ModuleList:
    """The layers of a language model's body, the lowest first: its outermost list of modules, the longest of them."""
    lists = [(name, module) for name, module in body.named_modules() if isinstance(module, ModuleList)]
    return max(lists, key=lambda one: (-one[0].count("."), len(one[1])))[1]


def num_layers(folder: Path) -> int:
    """How many the model in `folder` has, from its configuration."""
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    return int(config.get_text_config().num_hidden_layers)


def depths(model: Any) -> dict[str, int]:
    """The depth of every parameter of a language model or a headed one, by its name.

    An embedding that is the output head as well, tied, is the head: depth 0.
    """
    layers = layers_of(model.base_model)
    below = len(layers) + 1
    by_name: dict[str, int] = {}
    output = model.get_output_embeddings()
    head = {id(weight) for weight in output.parameters()} if output is not None else set()
    if has_head(model):
        head |= {id(weight) for name in head_names(model) for weight in model.get_submodule(name).parameters()}
    of = {id(weight): len(layers) - n for n, layer in enumerate(layers) for weight in layer.parameters()}
    embedded = {id(w) for module in model.modules() if isinstance(module, Embedding) for w in module.parameters()}
    for name, weight in model.named_parameters():
        if id(weight) in head:
            by_name[name] = 0
        elif id(weight) in of:
            by_name[name] = of[id(weight)]
        else:  # BLOOM and BERT have a norm among their embeddings
            by_name[name] = below if id(weight) in embedded or "embed" in name else 1
    return by_name


def freeze_below(model: Module, depth: int) -> None:
    """Takes every weight out of the training that lies deeper than `depth`."""
    for name, found in depths(model).items():
        model.get_parameter(name).requires_grad_(found <= depth)
