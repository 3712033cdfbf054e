"""Bottlenecks: by hand, put into a model of two layers by hand, saved and taken up again."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from fettle.errors import UserError
from fettle.models.bottleneck import Bottleneck, BottleneckModel
from fettle.models.bottleneck_places import places

IDS = torch.arange(8)[None]


def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=32,
            hidden_size=16,
            num_attention_heads=2,
            num_hidden_layers=2,
            intermediate_size=24,
            initializer_range=0.3,
        )
    )


def learned(size: int = 4) -> BottleneckModel:
    found = BottleneckModel(model(), size, "base")
    torch.manual_seed(1)
    for weight in found.parameters():
        if weight.requires_grad:
            nn.init.normal_(weight, std=0.3)
    return found


@torch.no_grad()
def logits(one: nn.Module) -> torch.Tensor:
    return one.eval()(IDS).logits


class Followed(nn.Module):
    """A layer's part with a bottleneck after it."""

    def __init__(self, inner: nn.Module, after: nn.Module) -> None:
        super().__init__()
        self.inner, self.after = inner, after

    def forward(self, *args, **kwargs):
        output = self.inner(*args, **kwargs)
        return (self.after(output[0]), *output[1:]) if isinstance(output, tuple) else self.after(output)


def test_a_bottleneck_adds_what_its_two_layers_make_of_its_input():
    one = Bottleneck(2, 1)
    one.load_state_dict(
        {
            "down.weight": torch.tensor([[1.0, -1.0]]),
            "down.bias": torch.tensor([0.5]),
            "up.weight": torch.tensor([[2.0], [-3.0]]),
            "up.bias": torch.tensor([0.0, 1.0]),
        }
    )
    # Down: 1.5 - 1 + 0.5 = 1; GELU(1) = Φ(1) = (1 + erf(1 / √2)) / 2; up: 2 Φ(1), and 1 - 3 Φ(1).
    inside = (1 + math.erf(1 / math.sqrt(2))) / 2
    assert one(torch.tensor([1.5, 1.0])).tolist() == pytest.approx([1.5 + 2 * inside, 1 + 1 - 3 * inside])


def test_a_fresh_bottleneck_changes_nothing():
    assert torch.equal(logits(BottleneckModel(model(), 4, "base")), logits(model()))


def test_each_attention_and_feed_forward_is_followed_by_one():
    adapted, by_hand = learned(), model()
    for layer, own in zip(by_hand.model.layers, adapted.get_base_model().model.layers, strict=True):
        layer.self_attn = Followed(layer.self_attn, own.self_attn.bottleneck)
        layer.mlp = Followed(layer.mlp, own.mlp.bottleneck)
    torch.testing.assert_close(logits(adapted), logits(by_hand))


def test_the_model_itself_is_frozen_and_there_without_the_adapter():
    adapted = learned()
    assert all(".bottleneck." in name for name, weight in adapted.named_parameters() if weight.requires_grad)
    assert (
        sum(weight.requires_grad for weight in adapted.parameters()) == 2 * 2 * 4
    )  # layers, parts, two weights, biases
    with adapted.disable_adapter():
        off = logits(adapted)
    assert torch.equal(off, logits(model())) and not torch.allclose(logits(adapted), off, atol=1e-2)


def test_what_is_saved_is_the_adapter_alone_and_answers_the_same(tmp_path: Path):
    adapted = learned()
    adapted.save_pretrained(tmp_path)
    told = json.loads((tmp_path / "adapter_config.json").read_text())
    assert told == {"base_model_name_or_path": "base", "peft_type": "BOTTLENECK", "size": 4}
    from safetensors.torch import load_file

    state = load_file(tmp_path / "adapter_model.safetensors")
    again = BottleneckModel(model(), told["size"], "base")
    again.restore(state)
    assert torch.equal(logits(again), logits(adapted))
    assert sum(weight.numel() for weight in state.values()) == 4 * (16 * 4 + 4 + 4 * 16 + 16)


def test_an_adapter_of_another_model_is_told():
    state = {name: w for name, w in learned().state_dict().items() if ".bottleneck." in name and ".layers.0." in name}
    with pytest.raises(UserError, match="not made for this model: .*layers.1.* does not fit"):
        BottleneckModel(model(), 4, "base").restore(state)


def test_it_runs_in_float32_over_a_model_in_bfloat16():
    adapted = BottleneckModel(model().to(torch.bfloat16), 4, "base")
    assert {weight.dtype for weight in adapted.parameters() if weight.requires_grad} == {torch.float32}
    assert logits(adapted).dtype == torch.bfloat16


def test_models_whose_parts_are_called_otherwise_have_no_places():
    assert places(["model.layers.0.self_attn", "model.layers.0.mlp", "model.layers.0.mlp.up_proj"]) == [
        "model.layers.0.self_attn",
        "model.layers.0.mlp",
    ]
    assert places(["decoder.layers.0.self_attn", "decoder.layers.0.fc1"]) == []
