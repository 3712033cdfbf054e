"""docs/recipe.md from the specs: `python -m fettle.recipe.reference > docs/recipe.md`."""

from __future__ import annotations

import re
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from fettle.recipe.adapter import AdapterSpec
from fettle.recipe.algorithm import AlgorithmSpec, KlSpec
from fettle.recipe.cluster import ClusterSpec
from fettle.recipe.data import DataSpec, HeldoutSpec, ReplaySpec
from fettle.recipe.evaluate import EVALUATE_SPECS
from fettle.recipe.from_nothing import FromNothing, TokenizerSpec
from fettle.recipe.kinds import STAGE_SPECS
from fettle.recipe.merge import InterpolateSpec, WeightedAdapter
from fettle.recipe.optimizer import EarlyStopSpec, OptimizerSpec, ScheduleSpec
from fettle.recipe.publish import ParitySpec, PublishSpec
from fettle.recipe.rewards import RewardSpec
from fettle.recipe.rl import GapSpec, RecorderSpec, RolloutSpec
from fettle.recipe.stages import (
    BatchSpec,
    CheckpointSpec,
    LearningStage,
    StageBase,
    TrainingStage,
)
from fettle.recipe.storage import StorageSpec
from fettle.recipe.sweep import BudgetSpec, DomainSpec, MetricSpec, SweepSpec
from fettle.recipe.top import Recipe
from fettle.recipe.tracking import TrackingSpec

_HEAD = """# The recipe

Every key a recipe may have, with its default. Made from the specs by `python -m fettle.recipe.reference`; a test keeps
it true. Unknown keys are errors. Paths are relative to the recipe's file. `--set stages.sft.lr=1e-5` lays a value over
any key; a stage is named by its `name`. A key without a default is required.
"""

_PARTS: tuple[tuple[str, type[BaseModel], str], ...] = (
    ("Top", Recipe, ""),
    ("Every stage", StageBase, "stages.NAME."),
    ("Every stage that trains", LearningStage, "stages.NAME."),
    ("Every stage that learns from records", TrainingStage, "stages.NAME."),
    *((f"`kind: {kind}`", spec, "stages.NAME.") for kind, spec in STAGE_SPECS.items()),
    ("`algorithm`", AlgorithmSpec, "stages.NAME.algorithm."),
    ("`rewards`, `judges`", RewardSpec, "stages.NAME.rewards.N."),
    ("`rollout`", RolloutSpec, "stages.NAME.rollout."),
    ("`kl`", KlSpec, "stages.NAME.kl."),
    ("`gap`", GapSpec, "stages.NAME.gap."),
    ("`recorder`", RecorderSpec, "stages.NAME.recorder."),
    ("`adapters`", WeightedAdapter, "stages.NAME.adapters.N."),
    ("`interpolate`", InterpolateSpec, "stages.NAME.interpolate."),
    ("`base`, from nothing", FromNothing, "base."),
    ("`tokenizer`", TokenizerSpec, "base.tokenizer."),
    ("`data`", DataSpec, "stages.NAME.data.N."),
    ("`heldout`", HeldoutSpec, "stages.NAME.heldout."),
    ("`replay`", ReplaySpec, "stages.NAME.replay."),
    ("`batch`", BatchSpec, "stages.NAME.batch."),
    ("`optimizer`", OptimizerSpec, "stages.NAME.optimizer."),
    ("`schedule`", ScheduleSpec, "stages.NAME.schedule."),
    ("`early_stop`", EarlyStopSpec, "stages.NAME.early_stop."),
    ("`checkpoint`", CheckpointSpec, "stages.NAME.checkpoint."),
    ("`adapter`", AdapterSpec, "adapter."),
    ("`cluster`", ClusterSpec, "cluster."),
    *((f"`evaluate`, `kind: {kind}`", spec, "evaluate.N.") for kind, spec in EVALUATE_SPECS.items()),
    ("`publish`", PublishSpec, "publish."),
    ("`parity`", ParitySpec, "publish.parity."),
    ("`tracking`", TrackingSpec, "tracking."),
    ("`storage`", StorageSpec, "storage."),
    ("`sweep`", SweepSpec, "sweep."),
    ("`metric`", MetricSpec, "sweep.metric."),
    ("`domain`", DomainSpec, "sweep.space.KEY."),
    ("`budget`", BudgetSpec, "sweep.budget."),
)


_OF_ALL_STAGES = {*StageBase.model_fields, *LearningStage.model_fields, *TrainingStage.model_fields}
_SMALL = re.compile(r"(?<!^)(?=[A-Z])")  # EarlyStop is early_stop
_WORDS = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "null": "",
    "object": "keys",
}


def reference() -> str:
    """The page as Markdown."""
    pages = [_HEAD]
    for title, spec, prefix in _PARTS:
        rows = []
        schemas = spec.model_json_schema()["properties"]
        for name, info in spec.model_fields.items():
            if issubclass(spec, StageBase) and name not in spec.__annotations__ and name in _OF_ALL_STAGES:
                continue  # told where it is inherited from
            told = " ".join((info.description or "").split())
            rows.append(
                f"| `{info.alias or name}` | {_type(schemas[info.alias or name])} | {_default(info)} | {told} |"
            )
        summary = " ".join((spec.__doc__ or "").split())
        pages.append(f"## {title}\n\n{summary} (`--set {prefix}…`)\n")
        pages.append("| key | value | default | |\n|---|---|---|---|\n" + "\n".join(rows) + "\n")
    return "\n".join(pages)


def _type(schema: dict[str, Any]) -> str:
    """What a key may hold, in words, of its JSON schema."""
    if "anyOf" in schema or "oneOf" in schema:
        branches = [_type(one) for one in schema.get("anyOf") or schema["oneOf"]]
        return " or ".join(dict.fromkeys(branch for branch in branches if branch))
    if "$ref" in schema:
        name = str(schema["$ref"]).rpartition("/")[2]
        return "stage" if name.endswith("Stage") else f"`{_SMALL.sub('_', name.removesuffix('Spec')).lower()}`"
    if "const" in schema or "enum" in schema:
        values = schema.get("enum", [schema.get("const")])
        return " or ".join(f"`{str(value).lower() if isinstance(value, bool) else value}`" for value in values)
    if "prefixItems" in schema:
        return f"[{', '.join(_type(one) for one in schema['prefixItems'])}]"
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}"
    return _WORDS.get(str(schema.get("type")), "")


def _default(info: Any) -> str:
    if info.default is PydanticUndefined:
        return ""
    if info.default is None:
        return "–"
    if isinstance(info.default, (OptimizerSpec, ScheduleSpec, AdapterSpec)):
        return f"`{info.default.kind}`"
    if isinstance(info.default, BaseModel):
        told = info.default.model_dump(exclude_none=True, exclude_defaults=True)
        return "`" + ", ".join(f"{key}: {value}" for key, value in told.items()) + "`" if told else "as below"
    return f"`{str(info.default).lower() if isinstance(info.default, bool) else info.default}`"


if __name__ == "__main__":
    print(reference(), end="")
