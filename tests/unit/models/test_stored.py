"""Weights in four and eight bits against bitsandbytes' own numbers, and that measuring leaves them alone."""

from __future__ import annotations

import bitsandbytes.functional as bnb
import pytest
import torch

from fettle.models.base import BUNDLED, load_weights
from fettle.models.heads import load_headed
from fettle.models.stored import Quantised

LAYER = "model.layers.1.mlp.up_proj"
BITS = (4, 8)


@pytest.fixture(scope="module")
def plain() -> torch.nn.Module:
    return load_weights(BUNDLED["tiny"], torch.float32)


@pytest.fixture(scope="module", params=BITS)
def quantised(request: pytest.FixtureRequest) -> torch.nn.Module:
    return load_weights(BUNDLED["tiny"], Quantised(request.param, torch.float32))


def rounded(weight: torch.Tensor, bits: int) -> torch.Tensor:
    """What bitsandbytes makes of a weight, back in float32."""
    if bits == 4:
        packed, state = bnb.quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
        return bnb.dequantize_4bit(packed, state)
    whole, scales, _ = bnb.int8_vectorwise_quant(weight.half())
    return whole.float() * scales[:, None] / 127


def bits_of(model: torch.nn.Module) -> int:
    return 4 if getattr(model, "is_loaded_in_4bit", False) else 8


@torch.no_grad()
def test_a_layer_computes_with_the_weights_that_bitsandbytes_rounds(plain, quantised):
    torch.manual_seed(0)
    x = torch.randn(5, plain.config.hidden_size)
    weight = rounded(plain.get_submodule(LAYER).weight, bits_of(quantised))
    expected = torch.nn.functional.linear(x, weight)
    torch.testing.assert_close(quantised.eval().get_submodule(LAYER)(x), expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(expected, plain.get_submodule(LAYER)(x), atol=1e-4)


def test_training_and_measuring_compute_the_same_and_leave_the_weights_alone(quantised):
    ids = torch.arange(12)[None]
    before = {name: weight.clone() for name, weight in quantised.state_dict().items()}
    with torch.no_grad():
        measured = quantised.eval()(ids, use_cache=False).logits
    quantised.train().get_input_embeddings().requires_grad_(True)
    torch.testing.assert_close(quantised(ids, use_cache=False).logits, measured)
    assert all(torch.equal(weight, before[name]) for name, weight in quantised.state_dict().items())


def test_embeddings_norms_and_the_output_head_are_not_rounded(plain, quantised):
    kinds = {type(quantised.get_submodule(name)).__name__ for name in (LAYER, "model.layers.0.self_attn.o_proj")}
    assert kinds == {"Linear4bit" if bits_of(quantised) == 4 else "Linear8bitLt"}
    assert type(quantised.get_output_embeddings()) is torch.nn.Linear
    for name in ("model.embed_tokens", "lm_head", "model.norm"):
        assert torch.equal(quantised.get_submodule(name).weight, plain.get_submodule(name).weight.float())


@pytest.mark.parametrize("bits", BITS)
def test_a_head_for_scores_is_not_rounded_either(bits):
    model = load_headed(BUNDLED["tiny"], 3, Quantised(bits, torch.float32), seed=0)
    assert type(model.score) is torch.nn.Linear and model.score.weight.dtype == torch.float32
    assert torch.equal(model.score.weight, load_headed(BUNDLED["tiny"], 3, torch.float32, seed=0).score.weight)
