"""Encoders behind the gate: their token vectors, pooled as sentence-transformers does it."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from head_folders import TEXTS, endpoint_of, write_embedder
from transformers import AutoModel, AutoTokenizer

from fettle.models import adapters
from fettle.models.base import load_tokenizer, load_weights
from fettle.recipe.adapter import AdapterSpec

TOLERANCE = 1e-4
LORA = AdapterSpec(kind="lora", r=4, alpha=8)


@torch.no_grad()
def embedding(folder: Path, text: str, *, first: bool = False) -> np.ndarray:
    """As sentence-transformers pools: of all tokens, those around the text too."""
    model, tokenizer = (
        AutoModel.from_pretrained(folder, dtype=torch.float32).eval(),
        AutoTokenizer.from_pretrained(folder),
    )
    hidden = model(torch.tensor([tokenizer(text)["input_ids"]])).last_hidden_state[0]
    pooled = hidden[0] if first else hidden.mean(0)
    return (pooled / pooled.norm()).numpy()


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "electra", "modernbert"])
def test_an_embedding_is_the_mean_of_an_encoders_token_vectors(tmp_path: Path, kind: str) -> None:
    folder = write_embedder(tmp_path / kind, kind)

    answer = endpoint_of(folder).post("/v1/embeddings", json={"model": kind, "input": list(TEXTS)}).json()

    assert [one["object"] for one in answer["data"]] == ["embedding"] * 3
    for text, told in zip(TEXTS, answer["data"], strict=True):
        assert np.allclose(told["embedding"], embedding(folder, text), atol=TOLERANCE)


def test_base64_is_of_the_same_numbers(tmp_path: Path) -> None:
    at = endpoint_of(write_embedder(tmp_path / "embedder"))

    plain, packed = (
        at.post("/v1/embeddings", json={"input": TEXTS[0], "encoding_format": how}).json()["data"][0]
        for how in ("float", "base64")
    )

    assert np.allclose(np.frombuffer(base64.b64decode(packed["embedding"]), "<f4"), plain["embedding"], atol=1e-6)


def test_pooling_is_as_sentence_transformers_wrote_it_down(tmp_path: Path) -> None:
    folder = write_embedder(tmp_path / "first")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')

    told = endpoint_of(folder).post("/v1/embeddings", json={"input": TEXTS[1]}).json()["data"][0]["embedding"]

    assert np.allclose(told, embedding(folder, TEXTS[1], first=True), atol=TOLERANCE)


def test_an_encoders_adapter_changes_its_embeddings(tmp_path: Path) -> None:
    base = write_embedder(tmp_path / "base")
    whole: Any = adapters.attach(load_weights(base, torch.float32), LORA, base, seed=0)
    for name, weight in whole.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.2)
    whole.save_pretrained(tmp_path / "adapter")
    whole.merge_and_unload().save_pretrained(tmp_path / "merged")
    load_tokenizer(base).save_pretrained(tmp_path / "merged")

    told = endpoint_of(tmp_path / "adapter").post("/v1/embeddings", json={"input": TEXTS[1]}).json()["data"][0]

    assert np.allclose(told["embedding"], embedding(tmp_path / "merged", TEXTS[1]), atol=TOLERANCE)
    assert not np.allclose(told["embedding"], embedding(base, TEXTS[1]), atol=0.01)
