"""What an adapter that trains some of the model's own layers needs, checked before any worker starts."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig

from fettle.errors import UserError
from fettle.models.layers import num_layers
from fettle.pipeline.planned import PlannedStage
from fettle.recipe import Recipe


def check_layers(recipe: Recipe, stage: PlannedStage) -> None:
    """Raises UserError where `adapter.layers` are more than the model has, or, with LISA, as many."""
    adapter = stage.adapter
    if adapter.layers is None:
        return

    def error(key: str, got: str, **more: Any) -> UserError:
        field = f"stages.{stage.spec.name}.adapter.{key}" if stage.spec.adapter else f"adapter.{key}"
        return UserError(got, **recipe.where(field), **more)

    if AutoConfig.from_pretrained(stage.origin.root, trust_remote_code=False).is_encoder_decoder:
        got = f"{adapter.kind} counts layers in one stack, and an encoder-decoder model has two"
        raise error("kind", got, expected="adapter: full, or an adapter beside the weights such as lora")
    total = num_layers(stage.origin.root)
    if adapter.layers > total:
        most = total if adapter.kind == "freeze" else total - 1
        got = f"the model has {total} layers, fewer than {adapter.layers}"
        raise error("layers", got, expected=f"1 to {most}")
    if adapter.kind == "lisa" and adapter.layers == total:
        got = f"the model has {total} layers in all: there is nothing to choose"
        raise error("layers", got, expected=f"1 to {total - 1}", fix="fewer layers, or adapter: full")
