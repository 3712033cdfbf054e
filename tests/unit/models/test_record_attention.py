"""Packed rows on a CPU: each record attends alone, to the same end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fettle.models import adapters, record_attention
from fettle.models.base import load_weights
from fettle.models.record_attention import attend_by_record, records_of
from fettle.recipe.adapter import AdapterSpec
from models_of import write_model

LENGTHS = [[5, 9, 2], [16], [1, 15]]
IDS = torch.arange(1, 49).reshape(3, 16)
POSITIONS = torch.stack([torch.cat([torch.arange(length) for length in row]) for row in LENGTHS])


def learned(model: Any, dtype: torch.dtype | None = None, **batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(logits, the gradients of all weights)."""
    with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
        logits = model(**batch, use_cache=False).logits
    logits.float().logsumexp(-1).sum().backward()
    grads = torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])
    model.zero_grad()
    return logits.detach().float(), grads


@pytest.fixture()
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The records given to torch, by their lengths."""
    found: list[int] = []
    ours = record_attention._record

    def noted(query: torch.Tensor, *rest: Any) -> torch.Tensor:
        found.append(query.shape[2])
        return ours(query, *rest)

    monkeypatch.setattr(record_attention, "_record", noted)
    return found


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
def test_logits_and_gradients_of_packed_rows_are_the_same(family: str, tmp_path: Path, calls: list[int]) -> None:
    model = load_weights(write_model(family, tmp_path), torch.float32)
    logits, grads = learned(model, input_ids=IDS, position_ids=POSITIONS)

    attend_by_record(model)
    ours, our_grads = learned(model, input_ids=IDS, position_ids=POSITIONS)

    assert calls == [5, 9, 2, 16, 1, 15] * model.config.num_hidden_layers
    assert torch.allclose(ours, logits, atol=1e-5)
    assert torch.allclose(our_grads, grads, atol=1e-4)


def test_a_record_longer_than_the_window_is_masked_as_before(tmp_path: Path, calls: list[int]) -> None:
    model = load_weights(write_model("mistral", tmp_path), torch.float32)
    assert model.config.sliding_window < 16
    logits, _ = learned(model, input_ids=IDS, position_ids=POSITIONS)

    attend_by_record(model)
    ours, _ = learned(model, input_ids=IDS, position_ids=POSITIONS)
    assert torch.equal(ours, logits) and not calls

    learned(model, input_ids=IDS[:1], position_ids=POSITIONS[:1])
    assert calls[:3] == [5, 9, 2]


def test_in_bfloat16_they_are_as_near_as_its_digits(tmp_path: Path) -> None:
    model = load_weights(write_model("llama", tmp_path), torch.float32)
    exact, _ = learned(model, input_ids=IDS, position_ids=POSITIONS)
    theirs, _ = learned(model, torch.bfloat16, input_ids=IDS, position_ids=POSITIONS)

    attend_by_record(model)
    ours, _ = learned(model, torch.bfloat16, input_ids=IDS, position_ids=POSITIONS)

    assert (ours - exact).abs().mean() <= 1.1 * (theirs - exact).abs().mean()


@pytest.mark.parametrize("tokens, used", [(128, torch.float32), (800, torch.bfloat16)])
def test_in_autocast_short_records_are_in_float32_where_it_is_the_faster(tokens: int, used: torch.dtype) -> None:
    """Autocast itself would have cast them all."""
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 1, 2, tokens, 64)
    mask: Any = blocks(tokens)
    mask.records = records_of(mask)

    with torch.autocast("cpu", torch.bfloat16):
        found, _ = record_attention._attention(torch.nn.Module(), query, key, value, mask)

    like = [one.to(used) for one in (query, key, value)]
    attended = torch.nn.functional.scaled_dot_product_attention(*like, is_causal=True)
    assert torch.equal(found, attended.to(torch.bfloat16).transpose(1, 2))


@pytest.mark.parametrize("tokens", [257, 300, 512])
def test_a_long_record_is_attended_in_parts_to_the_same_end(tokens: int) -> None:
    torch.manual_seed(0)
    inputs = torch.randn(3, 1, 4, tokens, 32, requires_grad=True)
    query, key, value = inputs[0], inputs[1, :, :2], inputs[2, :, :2]  # two heads of queries for each of keys
    told: Any = {"scale": 0.3, "enable_gqa": True}
    whole = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, **told)
    record_attention._causal.cache_clear()
    with torch.inference_mode():
        record_attention._record(query, key, value, torch.float32, 0.3, 0.0)
    ours = record_attention._record(query, key, value, torch.float32, 0.3, 0.0).transpose(1, 2)
    way = torch.randn_like(whole)

    grads, ours_grads = (torch.autograd.grad(one, inputs, way, retain_graph=True)[0] for one in (whole, ours))

    assert torch.allclose(ours, whole, atol=1e-5) and torch.allclose(ours_grads, grads, atol=1e-4)


def test_a_model_in_float64_stays_there(tmp_path: Path) -> None:
    model = load_weights(write_model("llama", tmp_path), torch.float64)
    logits = model(input_ids=IDS, position_ids=POSITIONS, use_cache=False).logits

    attend_by_record(model)

    assert torch.allclose(model(input_ids=IDS, position_ids=POSITIONS, use_cache=False).logits, logits, atol=1e-12)


def test_beside_an_adapter_it_is_the_base_that_attends(tmp_path: Path, calls: list[int]) -> None:
    folder = write_model("llama", tmp_path)
    model = adapters.attach(load_weights(folder, torch.float32), AdapterSpec(kind="lora"), folder, 0)

    attend_by_record(model)
    learned(model, input_ids=IDS, position_ids=POSITIONS)

    assert calls[:3] == [5, 9, 2]


def test_padding_is_masked_as_before(tmp_path: Path, calls: list[int]) -> None:
    model = load_weights(write_model("llama", tmp_path), torch.float32)
    padded = torch.ones_like(IDS)
    padded[0, :4] = padded[1, -3:] = 0
    logits, _ = learned(model, input_ids=IDS, attention_mask=padded)

    attend_by_record(model)
    ours, _ = learned(model, input_ids=IDS, attention_mask=padded)

    assert torch.equal(ours, logits) and not calls


def test_generating_goes_on_from_what_was_kept(tmp_path: Path, calls: list[int]) -> None:
    model = load_weights(write_model("llama", tmp_path), torch.float32).eval()
    before = model.generate(IDS[:1], max_new_tokens=4, do_sample=False)

    attend_by_record(model)

    assert torch.equal(model.generate(IDS[:1], max_new_tokens=4, do_sample=False), before) and not calls


def test_the_name_is_not_written_with_the_model(tmp_path: Path) -> None:
    model = load_weights(write_model("llama", tmp_path / "base"), torch.float32)
    attend_by_record(model)

    model.save_pretrained(tmp_path / "saved")

    assert "by_record" not in (tmp_path / "saved/config.json").read_text()
    assert load_weights(tmp_path / "saved", torch.float32).config._attn_implementation == "sdpa"


def test_a_model_with_another_attention_keeps_it(tmp_path: Path) -> None:
    model = load_weights(write_model("gptj", tmp_path), torch.float32)
    before = model.config._attn_implementation

    attend_by_record(model)

    assert model.config._attn_implementation == before


def blocks(*lengths: int) -> torch.Tensor:
    """[1, 1, T, T]: causal within records of these lengths."""
    return torch.block_diag(*[torch.ones(length, length).tril() for length in lengths]).bool()[None, None]


def test_records_of_a_mask() -> None:
    rows = torch.cat([blocks(3, 1, 2), blocks(6)])

    assert records_of(rows) == [[3, 1, 2], [6]]


@pytest.mark.parametrize(
    "mask",
    [
        None,
        blocks(3, 2).float(),
        blocks(3, 2)[..., -2:, :],  # of the last tokens, after kept ones
        blocks(3, 2) | blocks(3, 2).transpose(-1, -2),  # both ways
        blocks(5) & ~blocks(5).tril(-2),  # a window of two
        blocks(5) & (torch.arange(5) > 0),  # the first token is padding
        blocks(4, 1) | (torch.arange(5) == 1),  # one token that all see
    ],
)
def test_any_other_mask_has_none(mask: torch.Tensor | None) -> None:
    assert records_of(mask) is None
