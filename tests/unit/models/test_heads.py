"""A linear head over the body of a model of two layers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, LlamaConfig, LlamaForCausalLM

from fettle.errors import UserError
from fettle.models.adapters import attach, merged, resume
from fettle.models.base import load_weights
from fettle.models.heads import check_headed, has_head, load_headed
from fettle.recipe.adapter import AdapterSpec

SPEC = AdapterSpec(kind="lora", r=4, alpha=8)
IDS = torch.arange(1, 9)[None]
POSITIONS = torch.arange(8)[None]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        head_dim=16,
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


def headed(base: Path, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    return load_headed(base, 1, dtype, seed)


@torch.no_grad()
def scores(model: torch.nn.Module) -> torch.Tensor:
    return model.eval()(input_ids=IDS, position_ids=POSITIONS)


def learned(model: torch.nn.Module) -> torch.nn.Module:
    """The model with an adapter and a head that changed."""
    for name, weight in model.named_parameters():
        if weight.requires_grad and ("lora_B" in name or "score" in name):
            torch.nn.init.normal_(weight, std=0.3)
    return model


def test_every_token_has_its_scores(base):
    assert scores(headed(base)).shape == (1, 8, 1)
    assert scores(load_headed(base, 3, torch.float32, 0)).shape == (1, 8, 3)


def test_a_fresh_head_depends_on_the_seed_alone(base):
    one = headed(base, seed=3).score.weight
    torch.rand(100)
    assert torch.equal(headed(base, seed=3).score.weight, one)
    assert not torch.equal(headed(base, seed=4).score.weight, one)


def test_a_folders_own_head_is_kept(base, tmp_path):
    model = headed(base)
    torch.nn.init.normal_(model.score.weight)
    model.save_pretrained(tmp_path)
    assert torch.equal(headed(tmp_path, seed=9).score.weight, model.score.weight)


def test_the_last_tokens_score_is_what_transformers_own_classifier_gives(base, tmp_path):
    model = headed(base)
    model.save_pretrained(tmp_path)
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["LlamaForSequenceClassification"]
    assert plain.num_labels == 1
    with torch.no_grad():
        torch.testing.assert_close(scores(model)[:, -1], plain(IDS).logits)


def test_packed_texts_score_as_they_do_alone(base):
    model = headed(base)
    ids, places = torch.cat([IDS, IDS + 9], 1), torch.cat([POSITIONS, POSITIONS], 1)
    with torch.no_grad():
        both = model.eval()(input_ids=ids, position_ids=places)
        second = model(input_ids=IDS + 9, position_ids=POSITIONS)
    torch.testing.assert_close(both, torch.cat([scores(model), second], 1))


def test_the_head_stays_in_float32_over_a_body_in_bfloat16(base):
    model = headed(base, dtype=torch.bfloat16)
    assert model.score.weight.dtype == torch.float32 and model.model.norm.weight.dtype == torch.bfloat16
    assert scores(model).dtype == torch.float32


def test_loading_tells_nothing_of_the_missing_head(base, caplog, capfd):
    headed(base)
    out = capfd.readouterr()
    assert "score" not in caplog.text + out.out + out.err


def test_an_adapter_trains_the_head_too(base):
    model = attach(headed(base), SPEC, base, seed=0)
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert [name for name in trained if "lora_" not in name] == [
        "base_model.model.score.modules_to_save.default.weight"
    ]


def test_an_adapter_is_saved_with_its_head_and_merges_to_the_same_scores(base, tmp_path):
    model = learned(attach(headed(base), SPEC, base, seed=0))
    model.save_pretrained(tmp_path)
    expected = scores(model)
    torch.testing.assert_close(scores(resume(headed(base, seed=5), tmp_path)), expected)
    whole = merged(headed(base, seed=5), tmp_path, torch.float32)
    torch.testing.assert_close(scores(whole), expected)
    assert not any("lora" in name or "modules_to_save" in name for name in whole.state_dict())


def test_merged_weights_score_the_same_in_transformers_own_classifier(base, tmp_path):
    model = learned(attach(headed(base), SPEC, base, seed=0))
    model.save_pretrained(tmp_path / "adapter")
    merged(headed(base), tmp_path / "adapter", torch.float32).save_pretrained(tmp_path / "merged")
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
    with torch.no_grad():
        torch.testing.assert_close(plain(IDS).logits, scores(model)[:, -1])


def test_a_language_models_adapter_goes_on_under_a_fresh_head(base, tmp_path, recwarn):
    learned(attach(load_weights(base, torch.float32), SPEC, base, seed=0)).save_pretrained(tmp_path)
    model = resume(headed(base, seed=5), tmp_path)
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert sum("lora_" in name for name in trained) == 28 and sum("score" in name for name in trained) == 1
    whole = merged(headed(base, seed=5), tmp_path, torch.float32)
    torch.testing.assert_close(scores(model), scores(whole))
    assert torch.equal(whole.score.weight, headed(base, seed=5).score.weight)
    learned(model).save_pretrained(tmp_path / "further")
    torch.testing.assert_close(scores(resume(headed(base), tmp_path / "further")), scores(model))
    assert not any("missing" in str(warning.message) for warning in recwarn)


def test_a_model_with_a_head_is_told_from_one_without(base):
    assert has_head(headed(base)) and not has_head(load_weights(base, torch.float32))


def test_families_without_such_a_head_are_refused_from_their_configuration(base, tmp_path):
    check_headed(base)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mamba", "hidden_size": 8, "num_hidden_layers": 1}))
    with pytest.raises(UserError, match=r"^stages\.taste\.base: there is no head for .* mamba"):
        check_headed(tmp_path, field="stages.taste.base")
