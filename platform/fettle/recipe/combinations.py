"""Settings that are each right and do not go together, over a stage and its worker group."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fettle.errors import UserError
from fettle.recipe.cluster import ClusterSpec
from fettle.recipe.rl import RlStage
from fettle.recipe.stages import LearningStage, TrainingStage

if TYPE_CHECKING:
    from fettle.recipe.top import Recipe

_BY_SHAPE = ("adafactor", "muon")
"""Optimizers whose step depends on a weight being a matrix; ZeRO hands each worker a piece of one long vector."""


def check_combinations(recipe: Recipe) -> None:
    """Raises UserError at the first stage whose optimizer or adapter its worker group does not work with."""
    for stage in recipe.stages:
        if not isinstance(stage, LearningStage):
            continue
        cluster = stage.cluster or recipe.cluster
        kind = stage.optimizer.kind
        field = f"stages.{stage.name}.optimizer"
        if cluster.offload and kind != "adamw":
            raise UserError(
                f"{kind} has no offloaded form",
                **recipe.where(field),
                expected="adamw, where cluster.offload is true",
                fix="set offload: false, or optimizer: adamw",
            )
        if cluster.zero > 0 and kind in _BY_SHAPE:
            raise UserError(
                f"{kind} looks at whole matrices, and ZeRO {cluster.zero} shares them out in pieces",
                **recipe.where(field),
                expected="adamw, adamw_8bit, adam, sgd or rmsprop with zero: 1 to 3",
                fix="set cluster.zero: 0 (several workers work too), or another optimizer",
            )
        if stage.attention == "flash" and not cluster.gpus_per_worker:
            raise UserError(
                "FlashAttention computes on GPUs alone, and these workers have none",
                **recipe.where(f"stages.{stage.name}.attention"),
                expected="sdpa or eager",
            )
        _check_turns(recipe, stage, cluster)
        _check_ratio(recipe, stage, cluster)
        _check_bits(recipe, stage, cluster)
        if isinstance(stage, RlStage):
            _check_engines(recipe, stage, cluster)


def _check_turns(recipe: Recipe, stage: LearningStage, cluster: ClusterSpec) -> None:
    """Raises UserError where LISA cannot change the layers it trains, or never would."""
    adapter = stage.adapter or recipe.adapter
    if adapter.kind != "lisa":
        return
    at = f"stages.{stage.name}.adapter" if stage.adapter else "adapter"
    if cluster.zero > 0:
        raise UserError(
            f"ZeRO {cluster.zero} shares out, once and for all, the weights that are trained at the start; lisa trains"
            " other layers later",
            **recipe.where(f"{at}.kind"),
            expected="lisa with zero: 0",
            fix="set cluster.zero: 0 (several workers work too), or adapter: freeze or lora",
        )
    assert adapter.every is not None
    assert isinstance(stage, (TrainingStage, RlStage))
    if stage.max_steps is not None and stage.max_steps <= adapter.every:
        raise UserError(
            f"lisa would choose layers every {adapter.every} steps, and the stage has {stage.max_steps}",
            **recipe.where(f"{at}.every"),
            expected=f"at most {stage.max_steps - 1}" if stage.max_steps > 1 else None,
            fix="a smaller every, or more max_steps",
        )


def _check_ratio(recipe: Recipe, stage: LearningStage, cluster: ClusterSpec) -> None:
    """Raises UserError where LoRA+ cannot give the matrices B a rate of their own, or it would mean nothing."""
    adapter, kind = stage.adapter or recipe.adapter, stage.optimizer.kind
    if adapter.lr_ratio is None or not (cluster.offload or kind in _BY_SHAPE):
        return
    field = f"stages.{stage.name}.adapter.lr_ratio" if stage.adapter else "adapter.lr_ratio"
    reasons = {
        "adafactor": "adafactor's steps are relative to each weight's size, and B begins as 0",
        "muon": "muon gives all matrices steps of one size, which lr_ratio was not worked out for",
    }
    raise UserError(
        reasons.get(kind, "an offloaded optimizer has one rate for all weights"),
        **recipe.where(field),
        expected="lr_ratio with adamw, adamw_8bit, adam, sgd or rmsprop, and offload: false",
        fix="remove lr_ratio",
    )


def _check_bits(recipe: Recipe, stage: LearningStage, cluster: ClusterSpec) -> None:
    """Raises UserError where ZeRO 3 would have to share out weights of a few bits."""
    adapter = stage.adapter or recipe.adapter
    if adapter.bits is None or cluster.zero < 3:
        return
    field = f"stages.{stage.name}.adapter.bits" if stage.adapter else "adapter.bits"
    raise UserError(
        f"ZeRO 3 shares out the weights as they are loaded, which transformers cannot do with {adapter.bits} bits",
        **recipe.where(field),
        expected="bits with zero: 0, 1 or 2",
        fix=f"set cluster.zero: 2 (in {adapter.bits} bits each worker holds all of them), or remove bits",
    )


def _check_engines(recipe: Recipe, stage: RlStage, cluster: ClusterSpec) -> None:
    """Raises UserError where engines would share more GPUs than there are, or what is broadcast is not sent at all."""
    rollout, at = stage.rollout, f"stages.{stage.name}.rollout"
    if rollout.placement == "shared" and cluster.gpus_per_worker and rollout.num_gpus > cluster.workers:
        raise UserError(
            f"engines that share the workers' GPUs want {rollout.num_gpus}, and there are {cluster.workers}",
            **recipe.where(f"{at}.placement"),
            expected="engines x tensor_parallel of at most cluster.workers",
            fix="fewer engines, more workers, or placement: apart",
        )
    if rollout.placement == "shared" and cluster.gpus_per_worker and rollout.transfer == "broadcast":
        raise UserError(
            "nccl does not join two processes of one GPU, which placement: shared makes of learner and engine",
            **recipe.where(f"{at}.transfer"),
            expected="transfer: file with placement: shared",
            fix="remove transfer, or set placement: apart",
        )
    if rollout.transfer == "broadcast" and (stage.adapter or recipe.adapter).is_beside:
        raise UserError(
            "of a policy with an adapter only the adapter travels, as a file",
            **recipe.where(f"{at}.transfer"),
            expected="transfer: broadcast with adapter: full, freeze or lisa",
            fix="remove transfer",
        )
