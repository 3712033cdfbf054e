"""Embeddings and output head that share one tensor, where an adapter changes one of them alone."""

from __future__ import annotations

from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer


def untie(model: PeftModel) -> None:
    """Gives the output head a tensor of its own, where it shares the embeddings' and an adapter is on either of them.

    To be called before merging: PEFT adds each update to the layer's tensor in place, and so would change the other
    layer too (its own warning says as much).
    """
    inner: Any = model.get_base_model()
    head, embeddings = inner.get_output_embeddings(), inner.get_input_embeddings()
    if not isinstance(head, BaseTunerLayer) and not isinstance(embeddings, BaseTunerLayer):
        return
    plain_head, plain_embeddings = _plain(head), _plain(embeddings)
    if getattr(plain_head, "weight", None) is not plain_embeddings.weight:
        return
    plain_head.weight = torch.nn.Parameter(plain_head.weight.detach().clone())
    for config in {id(one): one for one in (inner.config, inner.config.get_text_config())}.values():
        config.tie_word_embeddings = False


def _plain(layer: Any) -> Any:
    return layer.get_base_layer() if isinstance(layer, BaseTunerLayer) else layer
