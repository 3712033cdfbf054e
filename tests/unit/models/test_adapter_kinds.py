"""What every kind of adapter beside the weights has to keep, and DoRA, (IA)³ and rsLoRA against their formulas."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from fettle.errors import UserError
from fettle.models.adapter_folder import kind_in, settings_in, settings_of
from fettle.models.adapters import attach, merged, restore, resume
from fettle.models.base import linear_layers, load_weights
from fettle.models.heads import load_headed
from fettle.models.ia3 import ia3_places
from fettle.models.mergeable import why_not_made, why_not_merged
from fettle.models.stored import Quantised
from fettle.recipe.adapter import AdapterSpec

SPECS = {
    "lora": AdapterSpec(kind="lora", r=4, alpha=8),
    "rslora": AdapterSpec(kind="lora", r=4, alpha=8, rslora=True),
    "dora": AdapterSpec(kind="dora", r=4, alpha=8),
    "ia3": AdapterSpec(kind="ia3"),
    "prefix": AdapterSpec(kind="prefix", tokens=3),
    "prompt": AdapterSpec(kind="prompt", tokens=3),
    "bottleneck": AdapterSpec(kind="bottleneck", size=4),
}
MERGED = ("lora", "rslora", "dora", "ia3")
IDS, POSITIONS = torch.arange(8)[None], torch.arange(8)[None]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_hidden_layers=2,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.2,
    )
    folder = tmp_path_factory.mktemp("llama")
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def plain(base: Path) -> torch.nn.Module:
    return load_weights(base, torch.float32)


def learned(model, std: float = 0.1):
    """The same model with an adapter that has learned something."""
    torch.manual_seed(2)
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data += torch.randn_like(weight) * std
    return model


@torch.no_grad()
def logits(model: torch.nn.Module) -> torch.Tensor:
    return model.eval()(input_ids=IDS, position_ids=POSITIONS, use_cache=False).logits


@torch.no_grad()
def scores(model: torch.nn.Module) -> torch.Tensor:
    return model.eval()(input_ids=IDS, position_ids=POSITIONS)


@pytest.mark.parametrize("kind", [kind for kind in SPECS if kind not in ("prefix", "prompt")])
def test_a_fresh_adapter_changes_nothing(base, kind):
    torch.testing.assert_close(logits(attach(plain(base), SPECS[kind], base, seed=0)), logits(plain(base)))


@pytest.mark.parametrize("kind", SPECS)
def test_a_saved_adapter_goes_on_with_the_same_logits_and_as_many_weights(base, kind, tmp_path):
    model = learned(attach(plain(base), SPECS[kind], base, seed=0))
    model.save_pretrained(tmp_path)
    again = resume(plain(base), tmp_path)
    assert torch.equal(logits(again), logits(model))
    trained = [{name for name, weight in one.named_parameters() if weight.requires_grad} for one in (again, model)]
    assert trained[0] == trained[1]


@pytest.mark.parametrize("kind", SPECS)
def test_a_checkpoint_takes_the_place_of_what_was_learned_since(base, kind, tmp_path):
    model = learned(attach(plain(base), SPECS[kind], base, seed=0))
    model.save_pretrained(tmp_path)
    before = logits(model)
    learned(model)
    restore(model, tmp_path)
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize("kind", SPECS)
def test_an_adapter_is_trained_and_saved_with_its_head(base, kind, tmp_path):
    model = learned(attach(load_headed(base, 3, torch.float32, 0), SPECS[kind], base, seed=0))
    model.save_pretrained(tmp_path)
    assert torch.equal(scores(resume(load_headed(base, 3, torch.float32, 5), tmp_path)), scores(model))


@pytest.mark.parametrize("kind", SPECS)
def test_a_language_models_adapter_goes_on_under_a_fresh_head(base, kind, tmp_path):
    learned(attach(plain(base), SPECS[kind], base, seed=0)).save_pretrained(tmp_path)
    model = resume(load_headed(base, 3, torch.float32, 5), tmp_path)
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert sum("score" in name for name in trained) == 1 and len(trained) > 1
    alone = load_headed(base, 3, torch.float32, 5)
    assert not torch.allclose(scores(model), scores(alone), atol=1e-3)


@pytest.mark.parametrize("kind", MERGED)
def test_merged_weights_answer_as_base_and_adapter_do(base, kind, tmp_path):
    model = learned(attach(plain(base), SPECS[kind], base, seed=0))
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(
        logits(merged(plain(base), tmp_path, torch.float32)), logits(model), atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("kind", [kind for kind in SPECS if kind not in MERGED])
def test_what_works_beside_the_weights_cannot_be_merged(base, kind, tmp_path):
    attach(plain(base), SPECS[kind], base, seed=0).save_pretrained(tmp_path)
    reason = f"it is of kind {kind}, which works beside the weights and is no update of them"
    assert why_not_merged(tmp_path, several=False) == why_not_made(SPECS[kind], several=False) == reason


@pytest.mark.parametrize("kind", SPECS)
def test_a_folder_tells_the_settings_that_it_was_made_with(base, kind, tmp_path):
    attach(plain(base), SPECS[kind], base, seed=0).save_pretrained(tmp_path)
    layers = linear_layers(base)
    told = settings_in(tmp_path, layers)
    assert told == settings_of(SPECS[kind], layers)
    assert told["kind"] == kind_in(tmp_path) == SPECS[kind].kind


@pytest.mark.parametrize(("kind", "bits"), [("lora", 4), ("lora", 8), ("dora", 4), ("ia3", 4), ("ia3", 8)])
def test_an_adapter_over_rounded_weights_starts_from_them_and_is_kept_in_float32(base, kind, bits, tmp_path):
    spec = AdapterSpec.model_validate(SPECS[kind].model_dump(exclude_none=True) | {"bits": bits})
    rounded = load_weights(base, Quantised(bits, torch.float32))
    start = logits(rounded)
    model = attach(rounded, spec, base, seed=0)
    torch.testing.assert_close(logits(model), start, atol=1e-4, rtol=1e-4)
    assert {weight.dtype for weight in model.parameters() if weight.requires_grad} == {torch.float32}
    learned(model).save_pretrained(tmp_path)
    again = resume(load_weights(base, Quantised(bits, torch.float32)), tmp_path)
    torch.testing.assert_close(logits(again), logits(model))


def projections(base: Path, spec: AdapterSpec, name: str):
    """(the layer's weight, the adapter's parts of it, the layer) of a learned adapter; all of the first layer."""
    model = learned(attach(plain(base), spec, base, seed=0))
    layer = model.get_base_model().model.layers[0].get_submodule(name)
    return layer.get_base_layer().weight, dict(layer.named_parameters()), layer.eval()


@torch.no_grad()
def test_rslora_scales_by_the_root_of_the_rank(base):
    weight, parts, layer = projections(base, SPECS["rslora"], "self_attn.q_proj")
    update = 8 / 4**0.5 * parts["lora_B.default.weight"] @ parts["lora_A.default.weight"]
    x = torch.randn(3, 32)
    torch.testing.assert_close(layer(x), x @ (weight + update).T, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_dora_has_lengths_of_its_own_for_the_rows_of_the_updated_weight(base):
    # Liu et al. 2024, equation 5: m · (W + ΔW) / ‖W + ΔW‖, a norm for each output.
    weight, parts, layer = projections(base, SPECS["dora"], "self_attn.v_proj")
    whole = weight + 8 / 4 * parts["lora_B.default.weight"] @ parts["lora_A.default.weight"]
    lengths = parts["lora_magnitude_vector.default.weight"]
    x = torch.randn(3, 32)
    expected = x @ (lengths[:, None] * whole / whole.norm(dim=1, keepdim=True)).T
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_ia3_scales_keys_and_values_and_what_the_feed_forwards_last_layer_reads(base):
    # Liu et al. 2022, section 3.3.
    x, wide = torch.randn(3, 32), torch.randn(3, 64)
    for name in ("self_attn.k_proj", "self_attn.v_proj"):
        weight, parts, layer = projections(base, SPECS["ia3"], name)
        torch.testing.assert_close(layer(x), parts["ia3_l.default"].T * (x @ weight.T))
    weight, parts, layer = projections(base, SPECS["ia3"], "mlp.down_proj")
    torch.testing.assert_close(layer(wide), (parts["ia3_l.default"] * wide) @ weight.T)


def test_ia3_finds_keys_values_and_feed_forwards_by_their_usual_names():
    llama = ["layers.0.self_attn.q_proj", "layers.0.self_attn.k_proj", "layers.0.self_attn.v_proj", "mlp.down_proj"]
    assert ia3_places(llama) == (["k_proj", "v_proj", "down_proj"], ["down_proj"])
    gpt2 = ["h.0.attn.c_attn", "h.0.attn.c_proj", "h.0.mlp.c_fc", "h.0.mlp.c_proj"]
    assert ia3_places(gpt2) == (["c_attn", "mlp.c_proj"], ["mlp.c_proj"])
    assert ia3_places(["layers.0.mixer.in_proj"]) == ([], [])


def test_an_adapter_that_was_made_for_another_model_is_told(base, tmp_path):
    attach(plain(base), AdapterSpec(kind="lora", targets=("q_proj",)), base, seed=0).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="not made for this model: it has no"):
        restore(attach(plain(base), AdapterSpec(kind="lora"), base, seed=0), tmp_path)
