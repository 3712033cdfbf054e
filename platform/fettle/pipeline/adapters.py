"""A stage's adapter: which it is, and what it needs of the model and the worker group, before any worker starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoConfig

from fettle.errors import UserError, did_you_mean
from fettle.models.adapter_folder import kind_in, settings_in, settings_of
from fettle.models.base import linear_layers, module_names, positions_of
from fettle.models.bottleneck_places import places, why_no_places
from fettle.models.family import family_of
from fettle.models.ia3 import ia3_places
from fettle.models.mergeable import why_beside_for_good
from fettle.models.packed import why_not_packed
from fettle.pipeline.origin import Origin
from fettle.pipeline.planned import PlannedLearning
from fettle.recipe import Recipe
from fettle.recipe.adapter import AdapterSpec
from fettle.recipe.stages import LearningStage


def adapter_of(recipe: Recipe, stage: LearningStage, origin: Origin) -> AdapterSpec:
    """The stage's adapter. Raises UserError where it does not go with what the stage begins from."""
    adapter = stage.adapter or recipe.adapter

    def error(key: str, got: str, **more: Any) -> UserError:
        field = f"stages.{stage.name}.{key}"
        return UserError(got, **recipe.where(field), **more)

    if origin.adapter is None:
        if stage.merge_first:
            got = "merge_first has no effect: what this stage begins from is no adapter"
            raise error("merge_first", got, fix="remove it")
        return adapter
    if stage.merge_first:
        kind = origin.adapter_spec.kind if origin.adapter_spec else kind_in(origin.adapter)
        if reason := why_beside_for_good(kind):
            got = f"the adapter this stage begins from cannot be merged: {reason}"
            raise error("merge_first", got, fix="remove it, and go on with the same adapter")
        return adapter
    if other := _difference(adapter, origin):
        raise error(
            "adapter",
            f"this stage begins from an adapter and asks for another one: {other}",
            expected="the same adapter settings, since the same adapter goes on",
            fix="say merge_first: true to merge the earlier adapter into the weights first",
        )
    return adapter


def check_adapter(recipe: Recipe, stage: PlannedLearning) -> None:
    """Raises UserError where the model has no place for the stage's adapter, or a setting does not go with it."""
    adapter, root = stage.adapter, stage.origin.root
    at = f"stages.{stage.spec.name}.adapter" if stage.spec.adapter else "adapter"

    def error(key: str, got: str, **more: Any) -> UserError:
        field = key if key.startswith("stages.") else f"{at}.{key}"
        return UserError(got, **recipe.where(field), **more)

    lora = "another adapter, such as lora"
    if isinstance(adapter.targets, tuple):
        layers = linear_layers(root)
        for target in adapter.targets:
            if target.rpartition(".")[2] not in layers:
                got = f"the model has no linear layer '{target}'{did_you_mean(target, layers)}"
                raise error("targets", got, expected=", ".join(layers))
    if adapter.kind == "ia3" and not ia3_places(module_names(root))[0]:
        got = f"{_model_type(root)} models have no keys, values and feed-forwards by the usual names"
        raise error("kind", got, expected=lora)
    if adapter.kind == "bottleneck" and not places(module_names(root)):
        raise error("kind", why_no_places(_model_type(root)), expected=lora)
    if adapter.tokens is not None:
        if reason := _why_no_learned_tokens(stage, adapter.tokens):
            raise error("kind", reason, expected=lora)
        if adapter.kind == "prefix" and stage.spec.gradient_checkpointing:
            got = "a layer that is computed again has lost the prefix's keys and values"
            raise error(f"stages.{stage.spec.name}.gradient_checkpointing", got, fix="remove it, or adapter: prompt")


def room_for(adapter: AdapterSpec, root: Path) -> int:
    """Positions of the model that are left for a record beside the learned tokens before it."""
    return positions_of(root) - (adapter.tokens or 0)


def _difference(adapter: AdapterSpec, origin: Origin) -> str | None:
    """How the stage's adapter differs from the one it begins from."""
    assert origin.adapter is not None
    layers = linear_layers(origin.root)
    asked: dict[str, Any] = settings_of(adapter, layers)
    there = settings_of(origin.adapter_spec, layers) if origin.adapter_spec else settings_in(origin.adapter, layers)
    for key in dict.fromkeys((*asked, *there)):
        if asked.get(key) != there.get(key):
            here, found = (_written(told.get(key)) for told in (asked, there))
            return f"{key} is {here} here and {found} there"
    return None


def _written(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else "absent" if value is None else str(value)


def _why_no_learned_tokens(stage: PlannedLearning, count: int) -> str | None:
    """Why the model cannot have learned tokens before every record of a row."""
    root = stage.origin.root
    if family_of(root) != "causal":
        return f"{stage.adapter.kind} tuning is for causal language models here"
    if reason := why_not_packed(root, stage.adapter):
        return f"the model takes no attention mask of ours: {reason}"
    config = AutoConfig.from_pretrained(root, trust_remote_code=False).get_text_config()
    window = getattr(config, "sliding_window", None)
    if window and getattr(config, "use_sliding_window", True) and stage.max_length + count > window:
        return f"the model's attention reaches back {window} tokens, less than max_length and the learned {count}"
    return None


def _model_type(root: Path) -> str:
    return str(AutoConfig.from_pretrained(root, trust_remote_code=False).model_type)
