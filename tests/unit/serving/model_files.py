"""Models and adapters as files: real safetensors headers over a few zeros."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from safetensors.numpy import save_file

WIDTH = 64
Q = "model.layers.0.self_attn.q_proj"


class MakeModel(Protocol):
    def __call__(self, name: str = "base", **config: Any) -> Path: ...


class MakeAdapter(Protocol):
    def __call__(self, name: str = "support", *, width: int = WIDTH, **config: Any) -> Path: ...


def write(file: Path, told: object) -> None:
    file.write_text(json.dumps(told), encoding="utf-8")


def write_model(folder: Path, **config: Any) -> Path:
    folder.mkdir()
    told = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": WIDTH,
        "num_attention_heads": 2,
        "max_position_embeddings": 128,
    }
    write(folder / "config.json", told | config)
    write(folder / "tokenizer.json", {"model": {"vocab": {"a": 0, "b": 1}}, "added_tokens": []})
    save_file({f"{Q}.weight": np.zeros((WIDTH, WIDTH), np.float32)}, folder / "model.safetensors")
    return folder


def write_adapter(folder: Path, base: Path, *, width: int = WIDTH, **config: Any) -> Path:
    folder.mkdir()
    told = {"peft_type": "LORA", "r": 4, "base_model_name_or_path": str(base)}
    write(folder / "adapter_config.json", told | config)
    key = f"base_model.model.{Q}"
    tensors = {
        f"{key}.lora_A.weight": np.zeros((4, width), np.float32),
        f"{key}.lora_B.weight": np.zeros((WIDTH, 4), np.float32),
    }
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder
