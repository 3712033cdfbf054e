"""Adapters merged into their base: one as it is, several combined per weight matrix; computed in float32.

linear is task arithmetic (Ilharco et al. 2022, arXiv:2212.04089, section 2), TIES is Yadav et al. 2023
(arXiv:2306.01708, section 3), DARE is Yu et al. 2023 (arXiv:2311.03099, section 3.2); the arithmetic is PEFT's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.utils.merge_utils import dare_linear, dare_ties, task_arithmetic, ties
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from fettle.artifact import library_versions, new_artifact
from fettle.errors import UserError
from fettle.models.base import digest_of, dtype_of, load_tokenizer, load_weights
from fettle.models.interpolate import Search, interpolated
from fettle.models.licences import inherited
from fettle.models.mergeable import why_not_merged
from fettle.models.tied import untie
from fettle.recipe.merge import DEFAULT_DENSITY, Method


@dataclass(frozen=True)
class Combination:
    """Adapters of one base, and how their updates become one; without any the base as it is. weights: one an adapter;
    no effect on a single one."""

    base: Path
    adapters: tuple[Path, ...]
    weights: tuple[float, ...]
    method: Method = "linear"
    density: float = DEFAULT_DENSITY
    seed: int = 0


def merged_weights(told: Combination) -> PreTrainedModel:
    """The base with the adapters' update added, float32. Raises UserError for an adapter that cannot be merged."""
    several = len(told.adapters) > 1
    for folder in told.adapters:
        if reason := why_not_merged(folder, several=several):
            raise UserError(f"it cannot be merged: {reason}", file=folder)
    if not told.adapters:
        return load_weights(told.base, torch.float32)
    model = _loaded(load_weights(told.base, torch.float32), told.adapters)
    untie(model)
    if not several:
        return model.merge_and_unload()
    torch.manual_seed(told.seed)
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, LoraLayer):
                _add_update(layer, told)
    return model.base_model.unload()


def combined(updates: Sequence[torch.Tensor], weights: Sequence[float], method: Method, density: float) -> torch.Tensor:
    """One update from several of the same shape, [out, in], as PEFT computes it.

    linear: the sum of weight · update. ties: of each update the `density` largest entries stay, the sign with the
    larger sum is elected for each entry, and the mean of weight · update is taken over those that have it. dare_*: each
    entry stays with probability `density`, by torch's generator, divided by `density`; then as linear or ties (without
    its trimming).
    """
    scales = torch.tensor(weights, dtype=updates[0].dtype)
    if method == "linear":
        return task_arithmetic(list(updates), scales)
    how = {"ties": ties, "dare_linear": dare_linear, "dare_ties": dare_ties}[method]
    return how(list(updates), scales, density)


def write_merged(
    artifact: Path,
    told: Combination,
    *,
    name: str,
    fingerprint: str,
    end_ids: Sequence[int],
    chat_template: str | None,
    may_commit: Callable[[], None] = lambda: None,
    recipe: str = "",
    search: Search | None = None,
) -> None:
    """Writes the merged weights, in the base's type, with its tokenizer, as an artifact. search: by which they
    come to lie between the untuned ones and these; None leaves them."""
    began = time.monotonic()
    model: Any = merged_weights(told)
    between = {"interpolation": interpolated(model, search, dtype_of(told.base))} if search is not None else {}
    digests = [digest_of(folder) for folder in told.adapters]
    tokenizer = as_its_base(model, told.base, end_ids, chat_template)
    with new_artifact(
        artifact,
        kind="model",
        name=name,
        fingerprint=fingerprint,
        may_commit=may_commit,
        parents=(digest_of(told.base), *digests),
        recipe=recipe,
        data={str(folder): digest for folder, digest in zip(told.adapters, digests, strict=True)},
        seed=told.seed,
        versions=library_versions(),
        metrics=untrained(time.monotonic() - began) | between,
        **inherited([told.base, *told.adapters]),
    ) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def as_its_base(model: Any, base: Path, end_ids: Sequence[int], chat_template: str | None) -> PreTrainedTokenizerBase:
    """Brings new full weights into the type of those they were made of, notes at which tokens an answer ends, and gives
    the tokenizer to lay beside them."""
    tokenizer = load_tokenizer(base, chat_template)
    dtype = dtype_of(base)
    model.to(dtype)
    model.config.dtype = dtype
    if model.can_generate():
        model.generation_config.eos_token_id = list(end_ids)
        model.generation_config.pad_token_id = tokenizer.pad_token_id
    return tokenizer


def untrained(seconds: float) -> dict[str, Any]:
    """The metrics of an artifact for which nothing was trained."""
    nothing = dict.fromkeys(("first", "last", "heldout_before", "heldout_after"))
    return {"seconds": round(seconds, 1), "steps": 0, "tokens": {"loss_bearing": 0, "all": 0}, "loss": nothing}


def _loaded(model: PreTrainedModel, adapters: Sequence[Path]) -> Any:
    """A PeftModel: the model with the adapters called 0, 1, … over it."""
    try:
        found = PeftModel.from_pretrained(model, adapters[0], adapter_name="0")
        for number, folder in enumerate(adapters[1:], start=1):
            found.load_adapter(folder, adapter_name=str(number))
    except (RuntimeError, ValueError) as error:  # shapes, and modules, that the base has not
        said = (str(error).strip() or type(error).__name__).splitlines()
        raise UserError(f"an adapter does not fit its base: {said[-1].strip()}", file=adapters[0]) from error
    return found


def _add_update(layer: Any, told: Combination) -> None:
    """Adds the combined update to the weights of one layer; an adapter that leaves the layer alone has none."""
    held = [*layer.lora_A, *layer.lora_embedding_A]
    here = [number for number in range(len(told.adapters)) if str(number) in held]
    updates = [layer.get_delta_weight(str(number)) for number in here]
    weights = [told.weights[number] for number in here]
    layer.get_base_layer().weight += combined(updates, weights, told.method, told.density)
