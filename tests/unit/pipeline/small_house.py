"""A base, data and a recipe small enough to make in a test, and stages that are finished without training."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from fettle.artifact import Artifact, library_versions, new_artifact, read_artifact
from fettle.models.base import digest_of
from fettle.pipeline.graph import PlannedStage, plan_stages
from fettle.recipe import Recipe, load_recipe
from fettle.train.progress import ProgressWriter

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
METRICS = {
    "seconds": 2.0,
    "steps": 3,
    "tokens": {"loss_bearing": 12, "all": 24},
    "loss": {"first": 3.0, "last": 2.0, "heldout_before": 3.5, "heldout_after": 2.5},
}


def write_base(folder: Path) -> Path:
    """A Llama's folder with a byte-level tokenizer and a chat template, over weights that are a few zeros."""
    folder.mkdir(parents=True)
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "max_position_embeddings": 128}
    config |= {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 4}  # a group of 128 fits
    (folder / "config.json").write_text(json.dumps(config))
    save_file({"lm_head.weight": np.zeros((4, 4), np.float32)}, folder / "model.safetensors")
    specials = ["<|end|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = Tokenizer(
        models.BPE({piece: i for i, piece in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, [])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(specials)
    tokenizer.save(str(folder / "tokenizer.json"))
    told = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>", "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    return folder


def lines(rows: Sequence[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def chat(number: int) -> dict[str, Any]:
    turns = [{"role": "user", "content": f"What is {number}?"}, {"role": "assistant", "content": f"It is {number}."}]
    return {"messages": turns}


@dataclass(frozen=True)
class House:
    """A folder with base/, corpus.txt, chat.jsonl and general.jsonl, and a recipe of two stages over them."""

    folder: Path
    tree: Mapping[str, Any]

    @property
    def out(self) -> Path:
        """The run's folder."""
        return self.folder / "out"

    @property
    def file(self) -> Path:
        """The recipe's file, written anew."""
        file = self.folder / "recipe.yaml"
        file.write_text(yaml.safe_dump(dict(self.tree)))
        return file

    def with_stages(self, *stages: Mapping[str, Any], **top: Any) -> House:
        """The same house with these stages instead."""
        return replace(self, tree={**self.tree, **top, "stages": [dict(stage) for stage in stages]})

    def recipe(self, **overrides: Any) -> Recipe:
        """The recipe; overrides' dots are `__`."""
        return load_recipe(self.file, {key.replace("__", "."): value for key, value in overrides.items()})

    def plan(self, until: str | None = None, **overrides: Any) -> list[PlannedStage]:
        """The planned stages."""
        return plan_stages(self.recipe(**overrides), self.out, until)

    def fingerprints(self, **overrides: Any) -> list[str]:
        """Of every stage."""
        return [stage.fingerprint for stage in self.plan(**overrides)]


def finish(stage: PlannedStage, steps: int = 3) -> Artifact:
    """The stage's artifact and progress, as if it had been trained."""
    writer = ProgressWriter(stage.folder / "progress.jsonl")
    for step in range(1, steps + 1):
        writer.write(step=step, steps=steps, loss=4.0 - step, lr=1e-3, grad_norm=1.0, tokens=8, loss_tokens=4)
    is_adapter = stage.adapter.is_beside
    with new_artifact(
        stage.artifact,
        kind="adapter" if is_adapter else "model",
        name=stage.spec.name,
        fingerprint=stage.fingerprint,
        base={"path": str(stage.base), "digest": digest_of(stage.base)} if is_adapter else None,
        versions=library_versions(),
        metrics=METRICS,
    ) as folder:
        name = "adapter_model.safetensors" if is_adapter else "model.safetensors"
        save_file({"weight": np.ones((2, 2), np.float32)}, folder / name)
        peft_type = {"ia3": "IA3", "prefix": "PREFIX_TUNING", "prompt": "PROMPT_TUNING"}.get(stage.adapter.kind, "LORA")
        told: dict[str, Any] = {"peft_type": peft_type, "use_dora": stage.adapter.kind == "dora"}
        told |= {"r": stage.adapter.r, "target_modules": stage.adapter.targets}
        told |= {"num_virtual_tokens": stage.adapter.tokens}
        told |= {"lora_alpha": stage.adapter.alpha, "lora_dropout": stage.adapter.dropout}
        (folder / ("adapter_config.json" if is_adapter else "config.json")).write_text(json.dumps(told))
    return read_artifact(stage.artifact)
