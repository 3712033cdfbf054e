"""Adapters into full weights: one, several, tied embeddings, padded vocabularies; and which adapters cannot be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from fettle.errors import UserError
from fettle.models.adapters import merged
from fettle.models.base import BUNDLED, digest_of, load_tokenizer, load_weights
from fettle.models.merge import Combination, combined, merged_weights, write_merged

IDS = torch.tensor([[5, 9, 300, 42, 7, 63]])
ONE = torch.tensor([[4.0, -3.0, 2.0, -1.0]])
TWO = torch.tensor([[2.5, 3.5, -1.0, -2.0]])

MakeAdapter = Callable[..., Path]


def write_model(folder: Path, **config: Any) -> Path:
    """A random Llama with the bundled tokenizer, whose embeddings are larger than it."""
    torch.manual_seed(0)
    tokenizer = load_tokenizer(BUNDLED["tiny"])
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 64}
    told: dict[str, Any] = {"vocab_size": len(tokenizer) + 37, "num_hidden_layers": 2, "initializer_range": 0.2}
    LlamaForCausalLM(LlamaConfig(**sizes | told | config)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("untied"))


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("tied"), tie_word_embeddings=True)


@pytest.fixture
def make_adapter(tmp_path: Path) -> MakeAdapter:
    """`make_adapter(base, seed=0, **LoraConfig)`: the folder of an adapter that has learned something."""

    def make(base: Path, seed: int = 0, **config: Any) -> Path:
        torch.manual_seed(seed)
        told = {"r": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | config
        model = get_peft_model(load_weights(base, torch.float32), LoraConfig(**told))
        for name, weight in model.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(weight, std=0.1)
        folder = tmp_path / f"adapter-{len(list(tmp_path.iterdir()))}"
        model.save_pretrained(folder)
        return folder

    return make


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model.eval()(IDS, use_cache=False).logits


def apart(base: Path, adapter: Path) -> torch.Tensor:
    """Logits of the adapter over its base."""
    return logits(PeftModel.from_pretrained(load_weights(base, torch.float32), adapter))


def written(base: Path, *adapters: Path, into: Path, weights: tuple[float, ...] = (), **how: Any) -> torch.Tensor:
    """Logits of the merged artifact, loaded again."""
    told = Combination(base, adapters, weights or (1.0,) * len(adapters), **how)
    write_merged(into, told, name="m", fingerprint="f", end_ids=(1,), chat_template=None)
    return logits(AutoModelForCausalLM.from_pretrained(into, dtype=torch.float32))


def by_peft(base: Path, adapters: list[Path], weights: list[float], **how: Any) -> torch.Tensor:
    """Logits of what PEFT itself makes of the adapters: one adapter whose rank loses nothing."""
    model = PeftModel.from_pretrained(load_weights(base, torch.float32), adapters[0], adapter_name="0")
    for number, folder in enumerate(adapters[1:], start=1):
        model.load_adapter(folder, adapter_name=str(number))
    inject = model.base_model.inject_adapter

    def inject_and_seed(*args: Any, **kwargs: Any) -> None:
        inject(*args, **kwargs)  # which draws, too
        torch.manual_seed(3)

    model.base_model.inject_adapter = inject_and_seed
    model.add_weighted_adapter([str(n) for n in range(len(adapters))], weights, "all", **how)
    model.set_adapter("all")
    return logits(model)


def test_linear_is_the_weighted_sum():
    # 0.5 · 4 + 2.5, 0.5 · -3 + 3.5, 0.5 · 2 - 1, 0.5 · -1 - 2
    assert combined([ONE, TWO], [0.5, 1.0], "linear", 1.0).tolist() == [[4.5, 2.0, 0.0, -2.5]]


def test_ties_keeps_the_largest_elects_signs_and_takes_the_mean_of_those_that_agree():
    # Half of each stays: [4, -3, 0, 0] and [2.5, 3.5, 0, 0]. Sums 6.5 and 0.5: the signs are + and +.
    # Means over those with that sign: (4 + 2.5) / 2 and 3.5 / 1.
    assert combined([ONE, TWO], [1.0, 1.0], "ties", 0.5).tolist() == [[3.25, 3.5, 0.0, 0.0]]


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties"])
def test_dare_keeps_entries_by_chance_and_makes_up_for_the_others(method):
    torch.manual_seed(0)
    many = torch.ones(200, 200)
    found = combined([many, torch.zeros(200, 200)], [1.0, 1.0], method, 0.25)
    assert set(found.unique().tolist()) == {0.0, 4.0}  # 1 / 0.25
    assert found.mean().item() == pytest.approx(1.0, abs=0.05)  # 40,000 draws: a standard deviation is 0.009


def test_one_adapter_merged_and_written_answers_as_it_does_over_its_base(base, make_adapter, tmp_path):
    adapter = make_adapter(base)
    assert torch.allclose(written(base, adapter, into=tmp_path / "m"), apart(base, adapter), atol=1e-5)


def test_the_bundled_model_merged_answers_as_its_adapter_does(make_adapter):
    adapter = make_adapter(BUNDLED["tiny"])
    whole = merged_weights(Combination(BUNDLED["tiny"], (adapter,), (1.0,)))
    assert torch.allclose(logits(whole), apart(BUNDLED["tiny"], adapter), atol=1e-5)


def test_an_artifact_tells_what_it_was_made_of_and_carries_tokenizer_template_and_end_ids(base, make_adapter, tmp_path):
    one, two = make_adapter(base), make_adapter(base, seed=1)
    told = Combination(base, (one, two), (1.0, 0.5))
    write_merged(tmp_path / "m", told, name="m", fingerprint="f", end_ids=(7, 1), chat_template="{{ messages }}")
    told = json.loads((tmp_path / "m" / "artifact.json").read_text())
    assert (told["kind"], told["base"], told["parents"]) == (
        "model",
        None,
        [digest_of(base), digest_of(one), digest_of(two)],
    )
    assert load_tokenizer(tmp_path / "m").chat_template == "{{ messages }}"
    assert json.loads((tmp_path / "m" / "generation_config.json").read_text())["eos_token_id"] == [7, 1]


def test_merged_weights_lie_in_the_bases_type_and_are_computed_in_float32(make_adapter, tmp_path):
    half = write_model(tmp_path / "half", dtype="bfloat16")
    load_weights(half, torch.bfloat16).save_pretrained(half)
    adapter = make_adapter(half)
    written(half, adapter, into=tmp_path / "m")
    exact = merged(load_weights(half, torch.float32), adapter, torch.float32).state_dict()
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "m", dtype="auto").state_dict()
    assert all(torch.equal(weight, exact[name].to(torch.bfloat16)) for name, weight in found.items())
    assert json.loads((tmp_path / "m" / "config.json").read_text())["dtype"] == "bfloat16"


def test_a_vocabulary_padded_beyond_the_tokenizer_stays_as_large(base, make_adapter, tmp_path):
    adapter = make_adapter(base, target_modules=["q_proj", "lm_head", "embed_tokens"])
    found = written(base, adapter, into=tmp_path / "m")
    assert found.shape[-1] == len(load_tokenizer(base)) + 37 == len(load_tokenizer(tmp_path / "m")) + 37
    assert torch.allclose(found, apart(base, adapter), atol=1e-5)


@pytest.mark.parametrize("targets", [["lm_head"], ["embed_tokens"], ["embed_tokens", "lm_head"], ["q_proj"]])
def test_tied_embeddings_are_untied_where_an_adapter_changes_one_of_them(tied, make_adapter, tmp_path, targets):
    adapter = make_adapter(tied, target_modules=targets)
    assert torch.allclose(written(tied, adapter, into=tmp_path / "m"), apart(tied, adapter), atol=1e-5)
    assert json.loads((tmp_path / "m" / "config.json").read_text())["tie_word_embeddings"] is (targets == ["q_proj"])


def test_adapters_that_peft_keeps_tied_are_each_added_once(tied, make_adapter, tmp_path):
    adapter = make_adapter(tied, target_modules=["embed_tokens", "lm_head"], ensure_weight_tying=True)
    assert torch.allclose(written(tied, adapter, into=tmp_path / "m"), apart(tied, adapter), atol=1e-5)


def test_factors_of_activations_are_merged_alone(base, tmp_path):
    config = IA3Config(task_type="CAUSAL_LM", target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"])
    model = get_peft_model(load_weights(base, torch.float32), config)
    for name, weight in model.named_parameters():
        if "ia3_" in name:
            torch.nn.init.uniform_(weight, 0.5, 1.5)
    model.save_pretrained(tmp_path / "ia3")
    whole = merged_weights(Combination(base, (tmp_path / "ia3",), (1.0,)))
    assert torch.allclose(logits(whole), logits(model), atol=1e-5)


def test_merging_first_unties_them_too(tied, make_adapter):
    adapter = make_adapter(tied, target_modules=["lm_head"])
    whole = merged(load_weights(tied, torch.float32), adapter, torch.float32)
    assert torch.allclose(logits(whole), apart(tied, adapter), atol=1e-5)


def test_whole_modules_beside_an_adapter_are_merged_too(base, make_adapter, tmp_path):
    adapter = make_adapter(base, modules_to_save=["lm_head"])
    assert torch.allclose(written(base, adapter, into=tmp_path / "m"), apart(base, adapter), atol=1e-5)


@pytest.mark.parametrize("weights", [(0.5, 0.5), (2.0, -1.0)])
def test_an_adapter_combined_with_itself_is_itself_where_the_weights_sum_to_one(base, make_adapter, tmp_path, weights):
    adapter = make_adapter(base)
    found = written(base, adapter, adapter, into=tmp_path / "m", weights=weights)
    assert torch.allclose(found, apart(base, adapter), atol=1e-5)


def test_linear_of_other_ranks_and_other_layers_is_pefts_exact_concatenation(base, make_adapter, tmp_path):
    adapters = [make_adapter(base), make_adapter(base, seed=1, r=2, lora_alpha=3, target_modules=["q_proj", "up_proj"])]
    found = written(base, *adapters, into=tmp_path / "m", weights=(0.7, -0.4))
    assert torch.allclose(found, by_peft(base, adapters, [0.7, -0.4], combination_type="cat"), atol=1e-5)


@pytest.mark.parametrize("method", ["ties", "dare_linear", "dare_ties"])
def test_combining_is_pefts_own_where_its_rank_is_full(base, make_adapter, tmp_path, method):
    # Rank 32 of matrices whose smaller side is 32: the singular value decomposition loses nothing.
    adapters = [make_adapter(base), make_adapter(base, seed=1, r=2)]
    found = written(base, *adapters, into=tmp_path / "m", weights=(1.0, 0.5), method=method, density=0.4, seed=3)
    theirs = by_peft(base, adapters, [1.0, 0.5], combination_type=f"{method}_svd", density=0.4, svd_rank=32)
    assert torch.allclose(found, theirs, atol=1e-4)


def test_dare_draws_by_the_seed(base, make_adapter):
    adapters = (make_adapter(base), make_adapter(base, seed=1))

    def drawn(seed: int) -> torch.Tensor:
        return logits(merged_weights(Combination(base, adapters, (1.0, 1.0), "dare_linear", seed=seed)))

    one, again, other = drawn(1), drawn(1), drawn(2)
    assert torch.equal(one, again) and not torch.equal(one, other)


def refused(told: Combination) -> str:
    with pytest.raises(UserError) as error:
        merged_weights(told)
    return str(error.value)


def test_an_adapter_that_is_no_update_of_weights_is_refused(base, tmp_path):
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    get_peft_model(load_weights(base, torch.float32), config).save_pretrained(tmp_path / "prompt")
    assert "cannot be merged: it is of kind prompt, which works beside the weights" in refused(
        Combination(base, (tmp_path / "prompt",), (1.0,))
    )


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"use_dora": True}, "it is DoRA, whose update is no sum"),
        ({"modules_to_save": ["lm_head"]}, "it holds whole modules (['lm_head'])"),
        ({"bias": "all"}, "it holds biases"),
    ],
)
def test_what_is_no_plain_lora_is_merged_alone_and_not_with_others(base, make_adapter, config, reason):
    one, two = make_adapter(base, **config), make_adapter(base)
    assert f"cannot be merged: {reason}; only LoRA adapters are combined" in refused(
        Combination(base, (one, two), (1.0, 1.0))
    )
    assert torch.allclose(logits(merged_weights(Combination(base, (one,), (1.0,)))), apart(base, one), atol=1e-5)


def test_an_adapter_of_a_larger_base_is_told_to_not_fit(base, make_adapter, tmp_path):
    adapter = make_adapter(write_model(tmp_path / "wide", hidden_size=64))
    assert "an adapter does not fit its base: " in refused(Combination(base, (adapter,), (1.0,)))
