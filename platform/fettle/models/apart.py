"""Whether a causal model keeps the records of a packed row apart: tried on a small random model of its architecture.

transformers tells records apart by position ids that restart, where a model's code hands them to the attention mask.
Some do not (Falcon), some have no positions at all (BLOOM), some carry a state along the row (Mamba): all of them would
silently train on rows in which records see each other.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from fettle.models.attention import attention_of

_LENGTHS = (9, 5, 7)
_VOCAB, _WINDOW, _WIDTH = 32, 4, 64
_STD = 0.2  # so large that each token in reach matters
# Of the largest logit: float32 in another order gives 1e-6, a record in reach 0.1 or more.
_TOLERANCE = 1e-4
_WIDTHS = ("intermediate_size", "ffn_hidden_size", "moe_intermediate_size")


def keeps_apart(config: Any) -> bool | None:
    """Whether each record's logits in a packed row are those it has alone, of a transformers configuration; None where
    no small model of it can be made, or it takes no positions."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            options: Any = {"attn_implementation": attention_of(config), "dtype": torch.float32}
            model = AutoModelForCausalLM.from_config(shrunk(config), trust_remote_code=False, **options)
            return _largest_difference(model.eval()) < _TOLERANCE
        except Exception:  # whatever code of whatever architecture makes of a configuration so small
            return None


def shrunk(config: Any) -> Any:
    """The same architecture with as few layers as show each of their types, few heads and a small vocabulary."""
    small = copy.deepcopy(config)
    types = list(dict.fromkeys(getattr(config, "layer_types", None) or ()))
    small.num_hidden_layers = max(2, len(types))
    if types:
        small.layer_types = (types * 2)[: small.num_hidden_layers]
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    small.num_attention_heads, small.hidden_size = 2, 2 * width
    for name in ("num_key_value_heads", "num_kv_heads"):
        if getattr(config, name, None):
            setattr(small, name, 2 if getattr(config, name) == heads else 1)
    for name in _WIDTHS:
        if isinstance(getattr(config, name, None), int):
            setattr(small, name, _WIDTH)
    if getattr(config, "sliding_window", None):
        small.sliding_window = _WINDOW
    small.vocab_size = _VOCAB
    small.bos_token_id = small.eos_token_id = small.pad_token_id = None
    return small


@torch.no_grad()
def _largest_difference(model: Any) -> float:
    for weight in model.parameters():
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=_STD)
    records = [torch.randint(_VOCAB, (length,)) for length in _LENGTHS]
    positions = torch.cat([torch.arange(length) for length in _LENGTHS])
    row = model(input_ids=torch.cat(records)[None], position_ids=positions[None], use_cache=False).logits[0]
    alone = torch.cat([model(input_ids=record[None], use_cache=False).logits[0] for record in records])
    return float((row - alone).abs().max() / alone.abs().max())
