"""Serving a quantised model: what is told of it from its files alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model

from fettle.artifact import new_artifact
from fettle.engine.env import EngineOptions, device, resolved_dtype
from fettle.errors import UserError
from fettle.models.base import BUNDLED, digest_of, load_weights
from fettle.models.quantize import write_quantized
from fettle.serving.resolve import fitted, resolve
from fettle.serving.weights import check_model

Q = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture(scope="module", params=[(8, None), (4, 32)], ids=["8 bits", "4 bits"])
def quantized(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model, quantised."""
    bits, group = request.param
    folder = tmp_path_factory.mktemp("quantized") / "tiny-small"
    told = {"name": "tiny-small", "fingerprint": "f", "end_ids": (7,), "chat_template": None}
    write_quantized(folder, BUNDLED["tiny"], None, bits=bits, group=group, **told)
    return folder


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter over the bundled model, as PEFT writes it."""
    folder = tmp_path_factory.mktemp("adapter")
    get_peft_model(load_weights(BUNDLED["tiny"], torch.float32), LoraConfig(r=8)).save_pretrained(folder)
    return folder


def test_it_is_served_under_its_name_and_its_layers_have_their_full_shapes(quantized: Path) -> None:
    assert resolve(quantized).names == ("tiny-small",)
    assert check_model(quantized)[Q] == check_model(BUNDLED["tiny"])[Q] == (192, 192)


def test_an_adapter_that_was_trained_on_the_full_weights_is_refused(
    quantized: Path, adapter: Path, tmp_path: Path
) -> None:
    told = {"path": str(BUNDLED["tiny"]), "digest": digest_of(BUNDLED["tiny"])}
    with new_artifact(tmp_path / "polite", kind="adapter", name="polite", fingerprint="f", base=told) as folder:
        for file in adapter.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())

    with pytest.raises(UserError, match="is not the one it was trained on"):
        resolve(quantized, adapters={"polite": tmp_path / "polite"})


def test_an_adapter_of_another_size_is_refused(quantized: Path, adapter: Path, tmp_path: Path) -> None:
    config = json.loads((BUNDLED["tiny"] / "config.json").read_text()) | {"hidden_size": 96}
    (tmp_path / "config.json").write_text(json.dumps(config))
    from transformers import AutoConfig, AutoModelForCausalLM

    narrow = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path))
    get_peft_model(narrow, LoraConfig(r=8)).save_pretrained(tmp_path / "narrow")

    with pytest.raises(UserError, match="it was not made for this base"):
        resolve(quantized, adapters={"narrow": tmp_path / "narrow"})


@pytest.mark.skipif(device() != "cpu", reason="what is shown here is the CPU build's behaviour")
def test_it_is_computed_in_bfloat16_on_a_cpu(quantized: Path) -> None:
    assert resolved_dtype(quantized, EngineOptions()) == "bfloat16"
    assert resolved_dtype(BUNDLED["tiny"], EngineOptions()) == "float32"


def test_float32_over_it_is_refused_before_an_engine_starts(quantized: Path) -> None:
    with pytest.raises(UserError, match="dtype: float32 over quantised weights"):
        fitted(EngineOptions(dtype="float32"), resolve(quantized))
