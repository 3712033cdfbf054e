"""A random tiny model of every family that is tried, with the bundled tokenizer: two layers, heads of 32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GPTJConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PhiConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from fettle.models.base import BUNDLED, load_tokenizer

HIDDEN, POSITIONS, WINDOW = 64, 128, 12
# What most of them call by these names. Weights are large, so that a token in reach matters.
_PLAIN: dict[str, Any] = {
    "hidden_size": HIDDEN,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 2 * HIDDEN,
    "max_position_embeddings": POSITIONS,
    "initializer_range": 0.1,
}
_GROUPED: dict[str, Any] = _PLAIN | {"num_key_value_heads": 1, "head_dim": 32}
_GPT: dict[str, Any] = {"n_embd": HIDDEN, "n_layer": 2, "n_head": 2, "n_positions": POSITIONS, "initializer_range": 0.1}
# GPT-2's own dropout falls elsewhere when rows are cut otherwise.
_STILL: dict[str, Any] = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
_FALCON: dict[str, Any] = _PLAIN | {"bias": False}

CAUSAL: dict[str, Callable[..., PreTrainedConfig]] = {
    "llama": lambda **told: LlamaConfig(**_GROUPED | told),
    "gpt2": lambda **told: GPT2Config(**_GPT | _STILL | told),
    "gptj": lambda **told: GPTJConfig(**_GPT | {"rotary_dim": 16} | told),
    "bloom": lambda **told: BloomConfig(hidden_size=HIDDEN, n_layer=2, n_head=2, initializer_range=0.1, **told),
    "falcon": lambda **told: FalconConfig(
        **_FALCON | {"new_decoder_architecture": True, "num_kv_heads": 1, "alibi": False} | told
    ),
    "falcon-alibi": lambda **told: FalconConfig(**_FALCON | {"alibi": True, "multi_query": False, "bias": True} | told),
    "qwen2": lambda **told: Qwen2Config(**_GROUPED | told),
    "qwen3": lambda **told: Qwen3Config(**_GROUPED | told),
    "mistral": lambda **told: MistralConfig(**_GROUPED | {"sliding_window": WINDOW} | told),
    "gemma": lambda **told: GemmaConfig(**_GROUPED | told),
    "gemma2": lambda **told: Gemma2Config(**_GROUPED | {"sliding_window": WINDOW, "query_pre_attn_scalar": 32} | told),
    "gemma3": lambda **told: Gemma3TextConfig(
        **_GROUPED | {"sliding_window": WINDOW, "query_pre_attn_scalar": 32, "sliding_window_pattern": 2} | told
    ),
    "phi": lambda **told: PhiConfig(**_PLAIN | told),
    "phi3": lambda **told: Phi3Config(**_PLAIN | {"num_key_value_heads": 1} | told),
}
"""By family, its configuration; GPT-J, Mistral, … as transformers calls them."""


def config_of(family: str, **told: Any) -> PreTrainedConfig:
    """The configuration of a tiny model for the bundled tokenizer, in float32."""
    tokenizer = load_tokenizer(BUNDLED["tiny"])
    ends = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    return CAUSAL[family](**{"vocab_size": len(tokenizer), "dtype": "float32"} | ends | told)


def model_of(family: str, seed: int = 0, **told: Any) -> PreTrainedModel:
    """A random causal language model of a family, float32, in evaluation."""
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config_of(family, **told)).eval()


def write_model(family: str, folder: Path, added: Sequence[str] = (), **told: Any) -> Path:
    """The folder of a random causal language model with its tokenizer, as one from the hub lies there.

    added: words that become tokens of their own, for which the embeddings are resized.
    """
    model, tokenizer = model_of(family, **told), load_tokenizer(BUNDLED["tiny"])
    if tokenizer.add_tokens(list(added)):
        model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
