"""Which families take packed rows: what is told of each is what a forward pass over such a row shows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fettle.models.apart import keeps_apart
from fettle.models.base import load_weights
from fettle.models.packed import why_not_packed
from fettle.recipe.adapter import FULL
from models_of import CAUSAL, config_of, write_model

LENGTHS = (20, 17, 25)  # longer than the window of those that have one
PADDED = {"bloom", "falcon", "falcon-alibi"}


@torch.no_grad()
def largest_difference(folder: Path) -> float:
    """Between the logits of records that share a row, as training lays them, and those of each alone."""
    model = load_weights(folder, torch.float32).eval()
    records = [torch.randint(1, 2000, (length,)) for length in LENGTHS]
    positions = torch.cat([torch.arange(length) for length in LENGTHS])
    row = model(input_ids=torch.cat(records)[None], position_ids=positions[None], use_cache=False).logits[0]
    alone = torch.cat([model(input_ids=record[None], use_cache=False).logits[0] for record in records])
    return float((row - alone).abs().max())


@pytest.mark.parametrize("family", CAUSAL)
def test_a_family_is_packed_exactly_where_its_records_do_not_see_each_other(family: str, tmp_path: Path) -> None:
    folder = write_model(family, tmp_path)

    is_packed = why_not_packed(folder, FULL) is None

    assert is_packed == (family not in PADDED) == (largest_difference(folder) < 1e-5)


@pytest.mark.parametrize(
    ("family", "said"),
    [
        ("bloom", "a bloom model has ALiBi instead of positions"),
        ("falcon-alibi", "a falcon model has ALiBi instead of positions"),
        ("falcon", "transformers' falcon models let the records of a row see each other"),
    ],
)
def test_the_reason_is_told(family: str, said: str, tmp_path: Path) -> None:
    assert said in str(why_not_packed(write_model(family, tmp_path), FULL))


def test_trying_it_leaves_the_generator_alone() -> None:
    torch.manual_seed(1)
    wanted = torch.rand(1)

    torch.manual_seed(1)
    keeps_apart(config_of("llama"))

    assert torch.equal(torch.rand(1), wanted)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("MambaConfig", {}),
        ("Lfm2Config", {"layer_types": ["conv", "full_attention"], "num_hidden_layers": 2}),
        ("Qwen3NextConfig", {"layer_types": ["linear_attention", "full_attention"], "num_hidden_layers": 2}),
        ("OPTConfig", {}),
    ],
)
def test_architectures_that_carry_a_state_or_learn_absolute_places_are_padded(name: str, told: dict) -> None:
    """In their default sizes, which are billions of parameters: only a small model of the kind is made."""
    import transformers

    assert not keeps_apart(getattr(transformers, name)(**told))


@pytest.mark.parametrize("name", ["LlamaConfig", "MixtralConfig", "Gemma3TextConfig", "GPTNeoXConfig"])
def test_large_models_of_families_that_can_are_packed(name: str) -> None:
    import transformers

    assert keeps_apart(getattr(transformers, name)())


def test_soft_capped_attention_is_not_left_out(tmp_path: Path) -> None:
    """transformers' default leaves it out silently; where this shows no difference any more, let it be the default."""
    import transformers

    folder = write_model("gemma2", tmp_path, attn_logit_softcapping=1.0)
    ids = torch.arange(5, 40)[None]

    with torch.no_grad():
        ours = load_weights(folder, torch.float32)(input_ids=ids).logits
        eager, default = (
            transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **told)(input_ids=ids).logits
            for told in ({"attn_implementation": "eager"}, {})
        )

    assert torch.equal(ours, eager)
    assert (default - eager).abs().max() > 0.01


def test_an_architecture_that_cannot_be_tried_is_padded(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "mamba"}')

    assert "cannot be tried" in str(why_not_packed(tmp_path, FULL))
