"""An adapter's artifact over the bundled model, made without training."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from fettle.artifact import new_artifact
from fettle.models.base import BUNDLED, digest_of, resolve_template
from fettle.serving.weights import tensor_shapes

MODULE = "model.layers.0.self_attn.q_proj"


def write_bundled_adapter(folder: Path, name: str, template: str | None = None, **config: object) -> Path:
    """The artifact `name`, in a folder whose own name decides its weights. template: a chat template of its own."""
    outputs, inputs = tensor_shapes(BUNDLED["tiny"] / "model.safetensors")[f"{MODULE}.weight"]
    base = {"path": str(BUNDLED["tiny"]), "digest": digest_of(BUNDLED["tiny"])}
    with new_artifact(folder, kind="adapter", name=name, fingerprint="f", base=base) as partial:
        (partial / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4} | config))
        if template is not None:
            (partial / "chat_template.jinja").write_text(resolve_template(template))
        key = f"base_model.model.{MODULE}"
        tensors = {
            f"{key}.lora_A.weight": np.full((4, inputs), len(folder.name), np.float32),
            f"{key}.lora_B.weight": np.zeros((outputs, 4), np.float32),
        }
        save_file(tensors, partial / "adapter_model.safetensors")
    return folder
