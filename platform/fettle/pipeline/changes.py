"""What would make a stage fit: changes of the recipe, the cheapest first, each tried by planning again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fettle.errors import UserError
from fettle.pipeline.planning import StagePlan
from fettle.recipe import Recipe
from fettle.recipe.rl import RlStage
from fettle.recipe.stages import LearningStage, StageBase

_SHOWN = 3
Sets = dict[str, str]
"""Dotted key → value, as `--set` has them."""
Tried = Callable[[Mapping[str, str]], StagePlan]
"""The stage planned again, with keys laid over the recipe; raises UserError where they do not go together."""


@dataclass(frozen=True)
class Change:
    """sets: what to lay over the recipe. cost: what it costs, in words."""

    sets: Sets
    cost: str

    def __str__(self) -> str:
        """As one types it."""
        return " ".join(f"--set {key}={_quoted(value)}" for key, value in self.sets.items())


def changes_for(recipe: Recipe, plan: StagePlan, tried: Tried, spare: int = 0) -> list[Change]:
    """At most three that make the stage fit, the cheapest first: single ones; where none does, as many together as it
    takes; none where nothing that is known here does. spare: GPUs that the stage does not use."""
    stage = next(one for one in recipe.stages if one.name == plan.name)
    candidates = list(_candidates(recipe, stage, plan, spare))
    alone = []
    for one in candidates:
        if _fits(tried, one.sets):
            alone.append(one)
            if len(alone) == _SHOWN:
                return alone
    if alone:
        return alone
    sets: Sets = {}
    costs: list[str] = []
    for one in candidates:
        sets |= one.sets
        costs = [*(cost for cost in costs if cost != one.cost), one.cost]
        if _fits(tried, sets):
            return [Change(*_fewer(sets, costs, tried))]
    return []


def _fewer(sets: Sets, costs: list[str], tried: Tried) -> tuple[Sets, str]:
    """Without those that are not needed beside the others."""
    for key in list(sets):
        rest = {other: value for other, value in sets.items() if other != key}
        if rest and _fits(tried, rest):
            sets = rest
    return sets, "; ".join(costs) if len(sets) == len(costs) else "all of it together"


def _fits(tried: Tried, sets: Mapping[str, str]) -> bool:
    try:
        return not tried(sets).problems
    except UserError:  # keys that do not go together, or with this base
        return False


def _candidates(recipe: Recipe, stage: StageBase, plan: StagePlan, spare: int) -> Iterator[Change]:
    at, cluster = f"stages.{stage.name}", plan.cluster
    group = f"{at}.cluster" if stage.cluster is not None else "cluster"
    if isinstance(stage, RlStage):
        yield from _of_engines(stage, plan, at)
    if plan.lacks & {"cpus", "gpus", "engine"}:
        yield from _fewer_workers(group, plan)
    if not isinstance(stage, LearningStage):
        return
    batch = plan.batch
    if batch is not None:
        for times in (2, 4, 8, 16, 32):
            if batch.rows * batch.row_tokens >= times * 2 and batch.records / batch.workers / batch.accumulate >= times:
                told = "next to nothing, smaller matrix products"
                unit, number = (
                    ("tokens", stage.batch.tokens) if stage.batch.tokens else ("sequences", stage.batch.sequences)
                )
                sets = {f"{at}.batch": f"{{{unit}: {number}, accumulate: {batch.accumulate * times}}}"}
                yield Change(sets, told)
    if not plan.checkpointing and plan.adapter is not None and plan.adapter.kind != "prefix":
        yield Change({f"{at}.gradient_checkpointing": "true"}, "about a third more time")
    if cluster.gpus_per_worker and spare > 0 and cluster.workers + spare > 1:
        sets = {f"{group}.workers": str(cluster.workers + spare), f"{group}.zero": "3" if cluster.zero == 3 else "2"}
        yield Change(sets, "more GPUs at a time, and less time")
        if cluster.zero < 3:
            yield Change(sets | {f"{group}.zero": "3"}, "more GPUs at a time, more exchange between them")
    if cluster.workers > 1:
        for zero in range(cluster.zero + 1, 4):
            yield Change({f"{group}.zero": str(zero)}, "more exchange between the workers" if zero > 2 else "little")
    if cluster.gpus_per_worker and not cluster.offload:
        sets = {f"{group}.offload": "true"} | ({f"{group}.zero": "2"} if cluster.zero < 2 else {})
        yield Change(sets, "slower steps: the optimizer works on the host")
    if "host" in plan.lacks and cluster.workers > 1 and not cluster.gpus_per_worker:
        yield from _fewer_workers(group, plan)
    if stage.checkpoint.keep > 1 and "disk" in plan.lacks:
        yield Change({f"{at}.checkpoint.keep": "1"}, "one checkpoint to go back to")
    own = f"{at}.adapter" if stage.adapter is not None else "adapter"
    if plan.adapter is not None and not plan.adapter.is_beside:
        yield Change({own: "{kind: lora, r: 16}"}, "an adapter learns, not all weights")
    if plan.adapter is None or plan.adapter.bits is None:
        r = plan.adapter.r if plan.adapter is not None and plan.adapter.r else 16
        yield Change({own: f"{{kind: lora, r: {r}, bits: 4}}"}, "an adapter learns over weights rounded to 4 bits")
    if batch is not None:
        longest = stage.max_length or batch.row_tokens
        for part in (2, 4):
            if longest // part >= 64:
                yield Change({f"{at}.max_length": str(longest // part)}, "longer records are cut")


def _fewer_workers(group: str, plan: StagePlan) -> Iterator[Change]:
    for workers in range(plan.cluster.workers - 1, 0, -1):
        if workers in (plan.cluster.workers - 1, plan.cluster.workers // 2, 1):
            zero = {f"{group}.zero": "0"} if workers == 1 and not plan.cluster.gpus_per_worker else {}
            yield Change({f"{group}.workers": str(workers)} | zero, "more time")


def _of_engines(stage: RlStage, plan: StagePlan, at: str) -> Iterator[Change]:
    if stage.max_staleness and not plan.cluster.gpus_per_worker:
        yield Change({f"{at}.max_staleness": "0"}, "engines and learner take turns")
    if plan.cluster.gpus_per_worker and stage.rollout.placement == "apart":
        yield Change({f"{at}.rollout.placement": "shared"}, "engines and learner take turns on the same GPUs")
    for engines in range(stage.rollout.engines - 1, 0, -1):
        yield Change({f"{at}.rollout.engines": str(engines)}, "slower generation")


def _quoted(value: Any) -> str:
    text = str(value)
    return f"'{text}'" if any(sign in text for sign in " {}") else text
