"""How far weights go towards the tuned ones: the search by hand, and mixtures of two small models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from fettle.errors import UserError
from fettle.models.interpolate import Search, interpolated, largest_alpha

SMALL = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}


def test_all_of_the_tuning_is_kept_where_the_budget_allows_it():
    alpha, curve = largest_alpha(lambda alpha: 0.01 * alpha, 0.02, 3)
    assert alpha == 1.0 and curve == [(0.0, 0.0), (0.5, 0.005), (1.0, 0.01)]


def test_between_the_grids_points_it_halves():
    # Forgetting is alpha squared: 0.3 squared is 0.09, which the budget allows exactly.
    alpha, curve = largest_alpha(lambda alpha: alpha**2, 0.09, 3)
    assert 0.3 - 0.5 / 2**5 < alpha <= 0.3
    assert len(curve) == 3 + 5 and dict(curve)[alpha] <= 0.09


def test_forgetting_that_does_not_rise_steadily_is_allowed_beyond_a_hill():
    hill = {0.25: 0.5, 0.5: 0.9, 0.75: 0.1, 1.0: 2.0}
    alpha, _ = largest_alpha(lambda alpha: hill.get(alpha, 2.0), 0.1, 5)
    assert alpha == 0.75


def test_without_a_budget_hardly_anything_is_tuned():
    alpha, _ = largest_alpha(lambda alpha: alpha, 0.0, 11)
    assert alpha == 0.0


def llama(seed: int, **more: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**{**SMALL, **more}))


def test_the_weights_are_put_where_the_search_ends(tmp_path: Path):
    untuned, tuned = llama(1), llama(2)
    untuned.save_pretrained(tmp_path)
    name = "model.layers.0.mlp.up_proj.weight"
    before, after = untuned.get_parameter(name).detach().clone(), tuned.get_parameter(name).detach().clone()

    def distance(model: LlamaForCausalLM) -> float:  # 0 at the untuned weights, 1 at the tuned ones
        return float(((model.get_parameter(name) - before).norm() / (after - before).norm()).detach())

    told = interpolated(tuned, Search(tmp_path, 0.5, 3, distance), torch.float32)

    assert told["alpha"] == 0.5 and told["forgetting"] == pytest.approx(0.5, abs=1e-6)
    torch.testing.assert_close(tuned.get_parameter(name).detach(), (before + after) / 2)
    assert [row["alpha"] for row in told["curve"]][:2] == [0.0, 0.5]


def test_models_of_other_shapes_have_nothing_between_them(tmp_path: Path):
    llama(1, intermediate_size=24).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="nothing between"):
        interpolated(llama(2), Search(tmp_path, 0.5, 3, lambda model: 0.0), torch.float32)
