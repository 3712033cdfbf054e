"""Which models can be quantised is told from their configuration, with what to do instead."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fettle.errors import UserError
from fettle.models.quantizable import check_quantizable

SMALL = {"vocab_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
LLAMA = SMALL | {"model_type": "llama", "hidden_size": 192, "intermediate_size": 512, "num_key_value_heads": 2}
MIXTRAL = LLAMA | {"model_type": "mixtral", "num_local_experts": 2, "num_experts_per_tok": 1}


@pytest.mark.parametrize(
    ("config", "group", "message"),
    [
        (
            {"model_type": "gpt2", "n_layer": 1, "n_head": 2, "n_embd": 64},
            None,
            "x: the weights of transformer.h.0.attn.c_attn.weight (Conv1D) are no linear layer's and would stay full",
        ),
        (MIXTRAL, None, "would stay full"),
        (
            LLAMA | {"architectures": ["LlamaForSequenceClassification"]},
            None,
            "x: a LlamaForSequenceClassification is no causal language model",
        ),
        (
            LLAMA,
            128,
            "x: groups of 128 do not divide the 192 inputs of model.layers.0.self_attn.q_proj\n  fix: set group: 64",
        ),
        (
            LLAMA | {"intermediate_size": 172},
            32,
            "x: model.layers.0.mlp.gate_proj is 172 x 192; vLLM's CPU kernel of 4-bit weights takes multiples of 32\n"
            "  fix: set bits: 8",
        ),
    ],
)
def test_what_cannot_be_quantised_is_refused(
    tmp_path: Path, config: dict[str, Any], group: int | None, message: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError) as told:
        check_quantizable(tmp_path, group, field="x")
    assert message in str(told.value)


@pytest.mark.parametrize("group", [None, 64, 32])
@pytest.mark.parametrize(
    "config", [LLAMA, LLAMA | {"model_type": "qwen2"}, LLAMA | {"model_type": "gemma2"}, {"model_type": "gpt_neox"}]
)
def test_models_of_linear_layers_can_be(tmp_path: Path, config: dict[str, Any], group: int | None) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    check_quantizable(tmp_path, group)
