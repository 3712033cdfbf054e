"""`auto`: the keys whose value may be left to a measurement, on the machine that a run is for."""

from __future__ import annotations

from typing import Any

AUTO = "auto"
_OF_STAGES = ("packing", "attention", "gradient_checkpointing")


def without_autos(tree: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """(a recipe's tree without the keys that say `auto`, so that each has its default; those keys, dotted, with stages
    by name). Where `auto` can stand: `precision` of a worker group; `packing`, `attention`, `gradient_checkpointing`
    and `batch.accumulate` of a stage."""
    found: list[str] = []
    left = _without(tree, "cluster.precision", found, "")
    stages = left.get("stages")
    if isinstance(stages, (list, tuple)):
        left["stages"] = [_of_stage(one, found) if isinstance(one, dict) else one for one in stages]
    return left, tuple(found)


def _of_stage(stage: dict[str, Any], found: list[str]) -> dict[str, Any]:
    for key in ("cluster.precision", *_OF_STAGES, "batch.accumulate"):
        stage = _without(stage, key, found, f"stages.{stage.get('name')}.")
    return stage


def _without(part: dict[str, Any], key: str, found: list[str], at: str) -> dict[str, Any]:
    first, _, rest = key.partition(".")
    if rest and isinstance(part.get(first), dict):
        return {**part, first: _without(part[first], rest, found, f"{at}{first}.")}
    if rest or part.get(first) != AUTO:
        return dict(part)
    found.append(f"{at}{first}")
    return {name: value for name, value in part.items() if name != first}
