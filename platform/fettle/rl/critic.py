"""The critic of PPO: a second model with a head of one row, which learns beside the policy, in the same optimizer.

It lies in the policy's model as a part of it, so that DeepSpeed shares it out and checkpoints hold it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from trl.trainer.utils import disable_dropout_in_model

from fettle.data.batches import IGNORE
from fettle.models import adapters
from fettle.models.base import base_and_adapter
from fettle.models.heads import HEAD, load_headed, own_rows
from fettle.models.stored import Stored
from fettle.recipe.adapter import AdapterSpec
from fettle.train.zero import whole

PART = adapters.BESIDE


def load_critic(folder: Path, spec: AdapterSpec, dtype: Stored, seed: int) -> torch.nn.Module:
    """The model in a folder under its own head of one row, if it has one, else under one that says 0. It learns as the
    policy does: with full weights, or an adapter, which is the folder's where it holds one."""
    base, adapter = base_and_adapter(folder)
    model: Any = load_headed(base, 1, torch.float32 if not spec.is_beside else dtype, seed)
    is_scored = adapter is not None or own_rows(base) == 1
    if adapter is not None:
        model = adapters.resume(model, folder)
    elif spec.is_beside:
        model = adapters.attach(model, spec, base, seed)
    if not is_scored:
        head = [weight for name, weight in model.named_parameters() if f"{HEAD}." in name and "lora_" not in name]
        with whole(head):
            for weight in head:
                torch.nn.init.zeros_(weight)  # at first the returns are the advantages
    disable_dropout_in_model(model)
    found: torch.nn.Module = model
    return found


def critic_of(model: Any) -> Any:
    """The critic in a policy's model."""
    return getattr(model, PART)


def is_of_critic(name: str) -> bool:
    """Whether a parameter of the policy's model is the critic's."""
    return PART in name.split(".")


def values_of(critic: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The value of the state before each label, row after row, [L] float32. batch: as `label_logprobs` reads it."""
    scores = critic(input_ids=batch["input_ids"], position_ids=batch["position_ids"])
    found: torch.Tensor = scores[:, :-1, 0][batch["labels"][:, 1:] != IGNORE]
    return found
