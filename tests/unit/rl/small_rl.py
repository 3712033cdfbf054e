"""What reinforcement learning of a model of two layers takes: a fence, a job, a trainer, and plain forward passes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from fettle.data.batches import Encoded
from fettle.recipe.adapter import FULL
from fettle.recipe.rl import RlStage
from fettle.rl.job import RlJob
from fettle.rl.learner import RlTask
from fettle.train.checkpoint import Fence

VOCAB = 50


def make_fence(folder: Path) -> Fence:
    """The fence of the run that is going on."""
    (folder / ".epoch").write_text("first")
    return Fence(folder / ".epoch", "first")


def take_over(fence: Fence) -> None:
    """As a later run does."""
    fence.file.write_text("second")


def make_job(folder: Path, spec: RlStage, **told: Any) -> RlJob:
    """A job of that stage below a folder, of rows of at most 32 tokens, but for what is told."""
    fields: dict[str, Any] = {
        "name": spec.name,
        "fingerprint": "f" * 64,
        "spec": spec.model_copy(update={"packing": True}) if spec.packing is None else spec,
        "adapter": FULL,
        "seed": 3,
        "base": folder / "base",
        "from_adapter": None,
        "max_length": 32,
        "precision": "fp32",
        "folder": folder / "stage",
        "artifact": folder / "artifact",
        "recipe": "r",
        "data": (),
        "end_ids": (0,),
        "pad_id": 0,
        "prompts": (),
        "heldout_prompts": None,
        "models": (),
        "critic": None,
        "recipe_folder": folder,
    }
    return RlJob(**fields | told)


def tiny_model(seed: int = 0) -> LlamaForCausalLM:
    """Of weights so large that its tokens are far from equally likely."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCAB, **sizes, initializer_range=0.2)).eval()


def trainer_of(task: RlTask, model: Any) -> Any:
    """What a task reads of its trainer, on one worker."""
    task.vocab = VOCAB
    return SimpleNamespace(
        task=task,
        model=model,
        model_wrapped=model,
        args=SimpleNamespace(device=torch.device("cpu")),
        batches=SimpleNamespace(rank=0, world=1),
        is_deepspeed_enabled=False,
        state=SimpleNamespace(global_step=0),
        in_precision=lambda model: model,
        is_world_process_zero=lambda: True,
    )


def alone(model: Any, example: Encoded, temperature: float = 1.0) -> torch.Tensor:
    """Of each loss-bearing token of an example its log-probability, by a forward pass of that example alone."""
    ids = torch.from_numpy(example.input_ids.astype(np.int64))
    logits = model(ids[None]).logits[0].float() / temperature
    each = torch.log_softmax(logits, -1)[:-1].gather(1, ids[1:, None])[:, 0]
    return each[torch.from_numpy(example.loss_mask[1:])]
