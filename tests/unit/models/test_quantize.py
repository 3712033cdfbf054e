"""Weights rounded to integers: each within half a step of what it was, everything else as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from fettle.artifact import read_artifact
from fettle.models.base import BUNDLED, digest_of, is_quantized, load_tokenizer, load_weights
from fettle.models.merge import Combination, write_merged
from fettle.models.quantize import write_quantized

SIZES = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 96}
GROUP = 32
LAYER = "model.layers.0.mlp.down_proj"
TOLD: dict[str, Any] = {"name": "small", "fingerprint": "f", "end_ids": (7,), "chat_template": None}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random float32 Llama, head and embeddings apart, with the bundled tokenizer. One weight is far from the others,
    one row is nothing."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("full")
    tokenizer = load_tokenizer(BUNDLED["tiny"])
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), num_hidden_layers=2, **SIZES))
    with torch.no_grad():
        model.get_submodule(LAYER).weight[3, 5] = 4.0
        model.get_submodule(LAYER).weight[9] = 0.0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def quantized(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The base in 8 and in 4 bits."""
    folder = tmp_path_factory.mktemp("quantized")
    for bits, group in ((8, None), (4, GROUP)):
        write_quantized(folder / str(bits), base, None, bits=bits, group=group, **TOLD)
    return {bits: folder / str(bits) for bits in (8, 4)}


def in_steps(tensors: dict[str, torch.Tensor], layer: str) -> tuple[torch.Tensor, torch.Tensor]:
    """(integers, scales), both [out, in], of one layer, by hand: eight 4-bit numbers from 0 in each 32-bit one."""
    scale = tensors[f"{layer}.weight_scale"].double()
    if f"{layer}.weight" in tensors:
        steps = tensors[f"{layer}.weight"]
    else:
        packed = tensors[f"{layer}.weight_packed"]
        steps = torch.stack([((packed >> 4 * place) & 15) - 8 for place in range(8)], dim=-1).flatten(1)
    return steps.double(), scale.repeat_interleave(steps.shape[1] // scale.shape[1], dim=1)


@pytest.mark.parametrize("bits", [8, 4])
def test_every_weight_is_within_half_a_step_of_the_full_one(base: Path, quantized: dict[int, Path], bits: int) -> None:
    full, rounded = load_file(base / "model.safetensors"), load_file(quantized[bits] / "model.safetensors")
    layers = [name.removesuffix(".weight") for name in full if "_proj." in name]
    assert len(layers) == 14
    for layer in layers:
        steps, scale = in_steps(rounded, layer)
        error = (steps * scale - full[f"{layer}.weight"].double()).abs() / scale
        assert error.max() <= 0.5 + 128 * 2**-23  # a scale is rounded to float32
        assert (steps.min(), steps.max()) >= (-(2 ** (bits - 1)), 0) and steps.max() <= 2 ** (bits - 1) - 1


def test_a_weight_far_from_the_others_widens_the_steps_of_its_group_alone(quantized: dict[int, Path]) -> None:
    scale = load_file(quantized[4] / "model.safetensors")[f"{LAYER}.weight_scale"]
    assert scale.shape == (64, 96 // GROUP)
    assert scale[3, 0] == pytest.approx(4.0 / 7.5) and scale[3, 1:].max() < 0.02


def test_a_row_of_zeros_stays_zeros(quantized: dict[int, Path]) -> None:
    steps, scale = in_steps(load_file(quantized[8] / "model.safetensors"), LAYER)
    assert not steps[9].any() and scale[9].isfinite().all()


@pytest.mark.parametrize("bits", [8, 4])
def test_embeddings_norms_and_output_head_stay_as_they_are(base: Path, quantized: dict[int, Path], bits: int) -> None:
    full, rounded = load_file(base / "model.safetensors"), load_file(quantized[bits] / "model.safetensors")
    kept = [name for name in full if "_proj." not in name]
    assert {"lm_head.weight", "model.embed_tokens.weight", "model.norm.weight"} <= set(kept)
    assert all(torch.equal(full[name], rounded[name]) for name in kept)


def test_the_artifact_tells_that_it_is_quantised_and_from_what(base: Path, quantized: dict[int, Path]) -> None:
    artifact = read_artifact(quantized[4], verify=True)
    assert (artifact.kind, artifact.quantized, artifact.parents) == (
        "model",
        {"bits": 4, "group": GROUP},
        (digest_of(base),),
    )
    assert (is_quantized(quantized[4]), is_quantized(base)) == (True, False)
    assert json.loads((quantized[4] / "generation_config.json").read_text())["eos_token_id"] == [7]
    assert load_tokenizer(quantized[4]).get_vocab() == load_tokenizer(base).get_vocab()


def test_the_same_model_is_quantised_to_the_same_bytes(base: Path, quantized: dict[int, Path], tmp_path: Path) -> None:
    write_quantized(tmp_path / "again", base, None, bits=4, group=GROUP, **TOLD)
    assert read_artifact(tmp_path / "again").digest == read_artifact(quantized[4]).digest


def test_bfloat16_weights_are_divided_in_float32(tmp_path: Path) -> None:
    """Two bfloat16 numbers above 64 are half apart: divided in that type, weights of 8 bits would land a step off."""
    write_quantized(tmp_path / "tiny", BUNDLED["tiny"], None, bits=8, group=None, **TOLD)
    full = load_file(BUNDLED["tiny"] / "model.safetensors")
    rounded = load_file(tmp_path / "tiny" / "model.safetensors")
    assert rounded[f"{LAYER}.weight_scale"].dtype == torch.bfloat16
    steps, scale = in_steps(rounded, LAYER)
    error = (steps * scale - full[f"{LAYER}.weight"].double()).abs() / scale
    assert error.max() <= 0.5 + 127.5 * 2**-8  # of the row's largest weight: its scale is rounded to bfloat16
    assert (error > 0.5).double().mean() < 0.01


def test_an_adapter_is_merged_before_it_is_quantised(base: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    adapted = get_peft_model(load_weights(base, torch.float32), LoraConfig(r=4, target_modules="all-linear"))
    for name, weight in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.1)
    adapted.save_pretrained(tmp_path / "adapter")
    write_merged(tmp_path / "merged", Combination(base, (tmp_path / "adapter",), (1.0,)), **TOLD)

    write_quantized(tmp_path / "at-once", base, tmp_path / "adapter", bits=8, group=None, **TOLD)
    write_quantized(tmp_path / "in-two", tmp_path / "merged", None, bits=8, group=None, **TOLD)

    at_once, in_two = (load_file(tmp_path / name / "model.safetensors") for name in ("at-once", "in-two"))
    assert at_once.keys() == in_two.keys()
    assert all(torch.equal(at_once[name], in_two[name]) for name in at_once)
    assert len(read_artifact(tmp_path / "at-once").parents) == 2


@pytest.mark.parametrize(("bits", "distance"), [(8, 0.02), (4, 0.2)])
def test_transformers_loads_it_and_answers_nearly_as_before(
    quantized: dict[int, Path], base: Path, bits: int, distance: float
) -> None:
    ids = torch.tensor([[5, 9, 300, 42, 7, 63]])
    with torch.no_grad():
        full, rounded = (
            AutoModelForCausalLM.from_pretrained(folder)(ids).logits.log_softmax(-1)
            for folder in (base, quantized[bits])
        )
    assert 0 < (full - rounded).abs().mean() < distance
