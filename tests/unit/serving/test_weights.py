"""Weights that would fail in the engine fail here, by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from model_files import WIDTH, MakeAdapter, MakeModel, Q, write

from fettle.errors import UserError
from fettle.serving.resolve import resolve
from fettle.serving.weights import tensor_shapes


def test_shapes_are_read_from_the_header(make_model: MakeModel) -> None:
    assert tensor_shapes(make_model() / "model.safetensors") == {f"{Q}.weight": (WIDTH, WIDTH)}


@pytest.mark.parametrize("kept", [0, 5, 40, -1])
def test_weights_that_are_cut_short_are_refused(make_model: MakeModel, kept: int) -> None:
    folder = make_model()
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])

    with pytest.raises(UserError, match="not a whole safetensors file"):
        resolve(folder)


def test_pickled_weights_are_refused(make_model: MakeModel) -> None:
    folder = make_model()
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")

    with pytest.raises(UserError, match=r"only pytorch_model\.bin, which can run code when loaded"):
        resolve(folder)


def test_missing_shard_is_named(make_model: MakeModel) -> None:
    folder = make_model()
    write(folder / "model.safetensors.index.json", {"weight_map": {"x": "model-00002-of-00002.safetensors"}})

    with pytest.raises(UserError, match=r"model-00002-of-00002\.safetensors is missing"):
        resolve(folder)


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_of_the_models_own_is_refused(make_model: MakeModel, file: str) -> None:
    folder = make_model()
    told = json.loads((folder / file).read_text()) if (folder / file).is_file() else {}
    write(folder / file, told | {"auto_map": {"AutoModel": "model.Model"}})

    with pytest.raises(UserError, match="auto_map"):
        resolve(folder)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"architectures": ["LlamaForSequenceClassification"]}, "generates no text"),
        ({"head_dim": 8}, "attention heads of 8"),
        ({"is_encoder_decoder": True}, "vLLM serves no such text models any more"),
    ],
)
def test_model_that_cannot_be_served_is_refused(make_model: MakeModel, config: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        resolve(make_model(**config))


def test_model_without_tokenizer_is_refused(make_model: MakeModel) -> None:
    folder = make_model()
    (folder / "tokenizer.json").unlink()

    with pytest.raises(UserError, match="no tokenizer"):
        resolve(folder)


@pytest.mark.parametrize("told", ["{", "[]", ""])
def test_broken_config_is_named(make_model: MakeModel, told: str) -> None:
    folder = make_model()
    (folder / "generation_config.json").write_text(told)

    with pytest.raises(UserError, match=r"generation_config\.json: not (valid JSON|a JSON object)"):
        resolve(folder)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"peft_type": "IA3"}, "an adapter of type IA3"),
        ({"use_dora": True}, "DoRA"),
        ({"bias": "all"}, "biases"),
        ({"modules_to_save": ["lm_head"]}, "whole modules"),
        ({"init_lora_weights": "pissa"}, "begun with pissa"),
        ({"r": 0}, "0 is no rank"),
        ({"r": "eight"}, "'eight' is no rank"),
        ({"r": 513}, "at most 512"),
        ({"rank_pattern": {"q_proj": 1024}}, "rank 1024"),
    ],
)
def test_adapter_that_vllm_cannot_apply_is_refused(
    make_model: MakeModel, make_adapter: MakeAdapter, config: dict[str, Any], reason: str
) -> None:
    make_model()

    with pytest.raises(UserError, match=reason):
        resolve(make_adapter(**config))


@pytest.mark.parametrize(
    ("config", "what"),
    [({"use_dora": True}, "DoRA"), ({"peft_type": "IA3"}, "an adapter of type IA3")],
)
def test_what_can_be_merged_is_to_be_merged(
    make_model: MakeModel, make_adapter: MakeAdapter, config: dict[str, Any], what: str
) -> None:
    make_model()
    folder = make_adapter(**config)

    with pytest.raises(UserError, match=rf"vLLM does not apply {what}") as told:
        resolve(folder)

    assert told.value.fix == f"fettle merge {folder} --out FOLDER, and serve that"


@pytest.mark.parametrize("kind", ["PREFIX_TUNING", "PROMPT_TUNING", "BOTTLENECK"])
def test_what_works_beside_the_weights_can_be_neither_served_nor_merged(
    make_model: MakeModel, make_adapter: MakeAdapter, kind: str
) -> None:
    make_model()

    with pytest.raises(UserError, match=f"vLLM does not apply an adapter of type {kind}") as told:
        resolve(make_adapter(peft_type=kind))

    assert told.value.fix == "train a lora adapter, or use this one from Python (docs/adapters.md)"


def test_rank_stabilised_lora_is_served(make_model: MakeModel, make_adapter: MakeAdapter) -> None:
    make_model()

    (adapter,) = resolve(make_adapter(use_rslora=True)).adapters

    assert adapter.rank == 4


def test_adapter_of_another_base_is_refused(make_model: MakeModel, make_adapter: MakeAdapter) -> None:
    make_model()

    with pytest.raises(UserError, match="64 x 32 here and 64 x 64 there"):
        resolve(make_adapter(width=32))


def test_pickled_adapter_is_refused(make_model: MakeModel, make_adapter: MakeAdapter) -> None:
    make_model()
    adapter: Path = make_adapter()
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")

    with pytest.raises(UserError, match=r"only adapter_model\.bin, which can run code when loaded"):
        resolve(adapter)
