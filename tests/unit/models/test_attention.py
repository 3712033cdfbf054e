"""How attention is computed: as a model needs it, or as a recipe says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fettle.models import adapters
from fettle.models.attention import attend
from fettle.models.base import load_weights, without_weights
from fettle.recipe.adapter import AdapterSpec
from models_of import write_model


@torch.no_grad()
def test_another_attention_computes_the_same(tmp_path: Path) -> None:
    model = load_weights(write_model("llama", tmp_path), torch.float32).eval()
    ids = torch.arange(1, 33)[None]
    first = model(input_ids=ids).logits

    attend(model, "eager")

    assert model.config._attn_implementation == "eager"
    assert torch.allclose(model(input_ids=ids).logits, first, atol=1e-5)


def test_beside_an_adapter_it_is_the_base_that_attends(tmp_path: Path) -> None:
    folder = write_model("llama", tmp_path)
    model = adapters.attach(load_weights(folder, torch.float32), AdapterSpec(kind="lora"), folder, 0)

    attend(model, "eager")

    assert model.get_base_model().config._attn_implementation == "eager"


@pytest.mark.parametrize(
    ("family", "told", "said"),
    [("gemma2", "sdpa", "soft-capped logits, which only eager"), ("gptj", "sdpa", "cannot be chosen")],
)
def test_what_a_model_cannot_do_is_told(family: str, told: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        attend(without_weights(write_model(family, tmp_path)), told)  # type: ignore[arg-type]


def test_what_a_model_does_anyway_may_be_said(tmp_path: Path) -> None:
    attend(without_weights(write_model("gptj", tmp_path)), "eager")
