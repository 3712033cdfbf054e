"""What a classify stage needs, checked before any worker starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fettle.errors import UserError
from fettle.models.label_rows import labels_in
from fettle.models.layers import num_layers
from fettle.pipeline.planned import PlannedStage
from fettle.recipe import Recipe
from fettle.recipe.kinds import ClassifyStage


def check_freezing(recipe: Recipe, stage: PlannedStage) -> None:
    """Raises UserError where a classifier's `unfreeze` or `layer_decay` has no effect, or cannot be."""
    spec = stage.spec
    if not isinstance(spec, ClassifyStage):
        return

    def error(key: str, got: str, **more: Any) -> UserError:
        field = f"stages.{spec.name}.{key}"
        return UserError(got, **recipe.where(field), **more)

    keys = {"unfreeze": spec.unfreeze != "all", "layer_decay": spec.layer_decay != 1}
    for key in (key for key, is_set in keys.items() if is_set):
        if stage.adapter.is_beside:
            fix = "remove it, or train the weights themselves: adapter: full"
            raise error(key, f"{key} has no effect with an adapter, which leaves every layer frozen", fix=fix)
        if stage.adapter.kind != "full":
            fix = f"remove it, or set adapter: full beside {key}"
            raise error(key, f"{key} and adapter: {stage.adapter.kind} both say which layers are trained", fix=fix)
        if stage.cluster.offload:  # DeepSpeed's own optimizer, which offloading needs, has one group for all layers
            fix = "remove it, or set cluster.offload: false"
            raise error(key, f"{key} needs a learning rate for each layer, which an offloaded optimizer lacks", fix=fix)
    if spec.unfreeze == "head" and spec.layer_decay != 1:
        raise error("layer_decay", "layer_decay has no effect with unfreeze: head", fix="remove it")
    if isinstance(spec.unfreeze, int):
        total = num_layers(stage.origin.root)
        if spec.unfreeze > total:
            got = f"the model has {total} layers, fewer than {spec.unfreeze}"
            raise error("unfreeze", got, expected=f"1 to {total}, head or all")
        if spec.max_steps is not None and spec.max_steps <= spec.unfreeze:
            got = f"{spec.max_steps} steps are too few to unfreeze {spec.unfreeze} layers one by one"
            raise error("max_steps", got, expected=f"at least {spec.unfreeze + 1}")


def check_labels(recipe: Recipe, stage: PlannedStage, labels: Mapping[str, tuple[str, ...]]) -> None:
    """Raises UserError where a classifier's adapter is to go on with other labels and its head's rows cannot be carried
    over: a bottleneck's, and with ZeRO 3 those of any kind, which lie in shards.

    labels: of the stages so far, by name.
    """
    if not isinstance(stage.spec, ClassifyStage) or stage.origin.adapter is None:
        return
    if stage.cluster.zero < 3 and stage.adapter.kind != "bottleneck":
        return
    name = stage.spec.from_ or ""
    earlier = labels.get(name) or (labels_in(stage.origin.adapter) if stage.origin.adapter.is_dir() else ())
    if earlier and earlier != labels[stage.spec.name]:
        field = f"stages.{stage.spec.name}.from"
        where: dict[str, Any] = recipe.where(field)
        reason = "with ZeRO 3" if stage.cluster.zero == 3 else "of kind bottleneck"
        raise UserError(
            f"the adapter this stage begins from is a classifier with other labels, and {reason} its head goes on as"
            " it is",
            **where,
            expected=f"the labels {', '.join(earlier)}, in this order",
            fix="set zero: 2 or less with a LoRA adapter, or train both with adapter: full",
        )
