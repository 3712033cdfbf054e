"""What both sides of `gpu.py` train: random weights in well-known shapes, random records, and how."""

from __future__ import annotations

import random
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import LlamaConfig, LlamaForCausalLM

from fettle.models.base import BUNDLED

TINY = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
SHAPES: dict[str, dict[str, Any]] = {
    "1B": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "tie_word_embeddings": True,
    },
    "7B": {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "vocab_size": 32000,
    },
    "8B": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
    },
    "tiny": TINY | {"num_key_value_heads": 2, "vocab_size": 2048},
}
LR, RANK = 1e-4, 16


@dataclass(frozen=True)
class Case:
    """bits: of the frozen weights under an adapter. zero: DeepSpeed's stage. recomputes: gradient checkpointing."""

    shape: str
    trains_all: bool = False
    bits: int | None = None
    zero: int = 0
    recomputes: bool = True


CASES = {
    "1B-full": Case("1B", trains_all=True),
    "1B-full-zero2": Case("1B", trains_all=True, zero=2),
    "1B-lora": Case("1B", recomputes=False),
    "7B-lora": Case("7B"),
    "8B-qlora": Case("8B", bits=4),
}


def sizes_of(shape: str) -> tuple[int, int]:
    """(tokens of a packed row, rows of a step)."""
    return (128, 2) if shape == "tiny" else (4096, 4)


def make_base(shape: str, folder: Path) -> None:
    """Random weights in bfloat16, made where there is a GPU on it, with the bundled tokenizer."""
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        torch.set_default_dtype(torch.bfloat16)
        model = LlamaForCausalLM(LlamaConfig(max_position_embeddings=4096, **SHAPES[shape]))
        torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(BUNDLED["tiny"] / name, folder)


def weights_of(folder: Path) -> int:
    """How many a base has, but for embeddings that are only looked up."""
    total = 0
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as weights:
            for name in weights.keys():  # noqa: SIM118  # no mapping
                shape = weights.get_slice(name).get_shape()
                is_head_too = "lm_head.weight" not in weights.keys()  # noqa: SIM118
                if "embed_tokens" not in name or is_head_too:
                    total += shape[0] * (shape[1] if len(shape) > 1 else 1)
    return total


def records(shape: str, steps: int) -> list[list[int]]:
    """Token ids of records that fill the steps' rows: a fifth to a half of a row each."""
    length, rows = sizes_of(shape)
    draw, found, wanted = random.Random(0), list[list[int]](), length * rows * (steps + 1)
    while sum(map(len, found)) < wanted:
        found.append([draw.randrange(10, 2000) for _ in range(draw.randrange(length // 5, length // 2))])
    return found
