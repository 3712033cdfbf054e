"""Small models with random weights of every kind that transformers serves, as folders, and their endpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from in_process import client_of
from small_encoders import CONFIGS, word_pieces, write_encoder
from starlette.testclient import TestClient
from transformers import AutoModelForSequenceClassification

from fettle.engine.env import EngineOptions
from fettle.models.base import BUNDLED, load_tokenizer
from fettle.models.heads import load_headed
from fettle.models.label_rows import name_labels
from fettle.serving.heads import reading, writing
from fettle.serving.heads.answers import HeadAnswers
from fettle.serving.heads.served import resolve_head

LABELS = ("billing", "greeting", "other")
TEXTS = ("Hello there.", "My bill is wrong, and it is the third time this year!", "x")
LINES = ["The night train leaves at ten.", "Who are you?", "My bill is wrong, and it is late.", "Hello there, friend!"]


def write_headed(folder: Path, labels: tuple[str, ...] = LABELS) -> Path:
    """The bundled model under a head with a row for each label; of no labels, as a reward model, one row."""
    tokenizer = load_tokenizer(BUNDLED["tiny"])
    model = load_headed(BUNDLED["tiny"], len(labels) or 1, torch.float32, seed=3)
    if labels:
        name_labels(model, labels)
    torch.nn.init.normal_(model.get_submodule("score").weight, std=0.5)  # type: ignore[arg-type]
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_classifying_encoder(folder: Path, kind: str = "bert", **config: Any) -> Path:
    """A small BERT, or one of its kin, with three labels."""
    tokenizer = word_pieces(LINES)
    told = CONFIGS[kind].to_dict() | {"vocab_size": len(tokenizer), "id2label": dict(enumerate(LABELS))} | config
    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_config(type(CONFIGS[kind])(**told)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_embedder(folder: Path, kind: str = "bert") -> Path:
    """A small masked language model."""
    return write_encoder(folder, LINES, kind)


def endpoint_of(folder: Path, **options: Any) -> TestClient:
    """A gate before the model in a folder."""
    return client_of(answers_of(folder, **options))


def answers_of(folder: Path, **options: Any) -> HeadAnswers:
    """The model in a folder, loaded."""
    told = EngineOptions(**options)
    served = resolve_head(folder, told)
    assert served is not None
    routes = writing.routes_of(served, told) if served.task == "write" else reading.routes_of(served, told)
    return HeadAnswers(served, routes)
