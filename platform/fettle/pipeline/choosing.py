"""What stands for `auto`: the fastest way to make a step that fits, measured on the machine that the run is for."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from fettle.errors import UserError
from fettle.models.attention import attention_of
from fettle.models.family import family_of_config
from fettle.models.packed import why_not_packed
from fettle.models.precision import resolve_precision
from fettle.needs.machines import Machines
from fettle.needs.trace import config_of
from fettle.pipeline.bases import Base, bases_of
from fettle.pipeline.fitting import judged
from fettle.pipeline.planning import StagePlan, length_of, plan_recipe
from fettle.pipeline.reinforcing import rl_precision
from fettle.pipeline.trial import Trial
from fettle.recipe import Recipe
from fettle.recipe.load import varied
from fettle.recipe.rl import RlStage
from fettle.recipe.stages import LearningStage

Measure = Callable[[Trial], float | None]
Known = dict[str, tuple[Any, str]]
"""What was chosen before, and why, by what it depends on."""
_ORDER = ("precision", "attention", "packing")
_TOGETHER = ("gradient_checkpointing", "batch.accumulate")
_STAGE_S = 60.0
_WORTH = 0.95
"""What is not by the rule has to take at most so many times as long: less is noise."""
_ROOM = 0.9
"""Of the memory that is there, what may be planned for: a plan is off by a tenth at worst."""
_TOKENS = 2048
"""Of a micro-batch, by which attention, precision and packing are compared."""
_MOST_PARTS = 64


@dataclass(frozen=True)
class Choice:
    """What stands for an `auto`. field: dotted. told: by what it was chosen, in words."""

    field: str
    value: Any
    told: str

    def __str__(self) -> str:
        """As one would write it into the recipe, with the reason."""
        value = self.value if isinstance(self.value, str) else json.dumps(self.value)
        return f"{self.field}={value}   ({self.told})"


@dataclass
class Chooser:
    """Puts values in place of a recipe's `auto`s. measure: None where the machines are not here. known: what was chosen
    before; used: what was chosen now, of it or anew."""

    machines: Machines
    measure: Measure | None
    known: Known = field(default_factory=dict)
    used: Known = field(default_factory=dict)

    def choose(self, recipe: Recipe, until: str | None = None) -> tuple[Recipe, list[Choice]]:
        """(the recipe without `auto`, up to and with the stage `until`; what was chosen, in order). Raises UserError
        where a base or data is not there."""
        bases, found = bases_of(recipe), list[Choice]()
        for stage in recipe.stages:
            if isinstance(stage, LearningStage) and (own := _fields(recipe, stage)):
                for choice in self._of_stage(recipe, stage.name, own, bases[stage.name]):
                    found.append(choice)
                    recipe = varied(recipe, {choice.field: choice.value})
            if stage.name == until:
                break
        return recipe, found

    def _of_stage(self, recipe: Recipe, name: str, fields: dict[str, str], base: Base) -> list[Choice]:
        key = _key(recipe, name, fields, base)
        if all(f"{key}:{one}" in self.known for one in fields.values()):
            found = [Choice(one, *self.known[f"{key}:{one}"]) for one in fields.values()]
        else:
            found = list(self._chosen(recipe, name, fields, base))
        self.used |= {f"{key}:{one.field}": (one.value, one.told) for one in found}
        return found

    def _chosen(self, recipe: Recipe, name: str, fields: dict[str, str], base: Base) -> Iterator[Choice]:
        is_causal = family_of_config(config_of(base.config)) == "causal"
        measure = self.measure if is_causal else None
        timer = _Timer(measure, self._by_rule(is_causal))
        for key in _ORDER:
            if key not in fields:
                continue
            options = _options(recipe, name, key, base)
            taken: dict[Any, float] = {}
            for value in options if measure is not None and len(options) > 1 else ():
                planned = self._planned(recipe, name, {fields[key]: value})
                if planned is not None and (seconds := timer(_trial(*planned, base, most=_TOKENS))) is not None:
                    taken[value] = seconds
            best = _best(options[0], taken)
            yield Choice(fields[key], best, _told(taken) or timer.why_not)
            recipe = varied(recipe, {fields[key]: best})
        together = {key: fields[key] for key in _TOGETHER if key in fields}
        if together:
            yield from self._fitting(recipe, name, together, base, timer)

    def _fitting(
        self, recipe: Recipe, name: str, fields: dict[str, str], base: Base, timer: _Timer
    ) -> Iterator[Choice]:
        """Gradient checkpointing and how often to accumulate, together: the fastest that fits."""
        taken: dict[tuple[Any, ...], float] = {}
        first: tuple[Any, ...] | None = None
        last: tuple[Any, ...] = ()
        for again in (False, True) if "gradient_checkpointing" in fields else (None,):
            slower = 0
            for parts in _parts(recipe, name) if "batch.accumulate" in fields else (None,):
                last = tuple(one for one in (again, parts) if one is not None)
                planned = self._planned(recipe, name, dict(zip(fields.values(), last, strict=True)))
                if planned is None or planned[1].problems:
                    continue
                first = first or last
                seconds = timer(_trial(*planned, base))
                if seconds is None:
                    if timer.measure is None:
                        break
                    continue
                slower = slower + 1 if taken and seconds > min(taken.values()) else 0
                taken[last] = seconds
                if slower == 2:
                    break
        if first is None:
            told = "nothing fits; this takes the least memory"
        else:
            told = _told({_named(fields, one): seconds for one, seconds in taken.items()}) or timer.why_not
        best = _best(first or last, taken)
        for one, value in zip(fields.values(), best, strict=True):
            yield Choice(one, value, told)
            told = f"together with {next(iter(fields))}"

    def _planned(self, recipe: Recipe, name: str, sets: dict[str, Any]) -> tuple[LearningStage, StagePlan] | None:
        """The stage with some keys, planned; None where they do not go together."""
        try:
            trial = varied(recipe, sets)
            (plan,) = judged(plan_recipe(trial, self.machines, only=name), self.machines, _ROOM)
        except UserError:
            return None
        return _stage(trial, name), plan

    def _by_rule(self, is_causal: bool) -> str:
        if self.measure is None:
            return f"by rule: nothing was measured, since {self.machines.told} is not here"
        told = "in the time for it" if is_causal else "of another model than a causal language model"
        return f"by rule: nothing was measured {told}"


@dataclass
class _Timer:
    """Measures until the time for it is over, which begins with the first result: before it, what measures has to
    start. why_not: what to say where nothing was measured."""

    measure: Measure | None
    why_not: str
    ends: float = math.inf

    def __call__(self, trial: Trial) -> float | None:
        if self.measure is None or time.monotonic() > self.ends:
            return None
        found = self.measure(trial)
        self.ends = min(self.ends, time.monotonic() + _STAGE_S)
        return found


def _fields(recipe: Recipe, stage: LearningStage) -> dict[str, str]:
    """The stage's keys that say `auto`, by the key, in the order in which they are chosen."""
    at, group = f"stages.{stage.name}.", "" if stage.cluster is None else f"stages.{stage.name}."
    places = {key: f"{at}{key}" for key in (*_ORDER, *_TOGETHER)} | {"precision": f"{group}cluster.precision"}
    return {key: place for key, place in places.items() if place in recipe.autos}


def _stage(recipe: Recipe, name: str) -> LearningStage:
    found = next(stage for stage in recipe.stages if stage.name == name)
    assert isinstance(found, LearningStage)
    return found


def _options(recipe: Recipe, name: str, key: str, base: Base) -> list[Any]:
    """What a key may be, what a run takes by rule first."""
    stage = _stage(recipe, name)
    cluster = stage.cluster or recipe.cluster
    if key == "attention":
        if attention_of(config_of(base.config)) == "eager":
            return ["eager"]
        return ["sdpa", "eager", *(["flash"] if cluster.gpus_per_worker else [])]
    if key == "precision":
        if isinstance(stage, RlStage):
            return [rl_precision(cluster)]
        rule = resolve_precision(cluster)
        others = ("fp32", "bf16", "fp16") if cluster.gpus_per_worker else ("fp32", "bf16")
        return [rule, *(one for one in others if one != rule)]
    adapter = stage.adapter or recipe.adapter
    can = base.folder is None or why_not_packed(base.folder, adapter) is None
    return [True, False] if can else [False]


def _parts(recipe: Recipe, name: str) -> Iterator[int]:
    """1, 2, 4, …: micro-batches that a worker's share may be split into."""
    stage = _stage(recipe, name)
    most = stage.batch.sequences or _MOST_PARTS
    parts = 1
    while parts <= min(_MOST_PARTS, max(1, most // (stage.cluster or recipe.cluster).workers)):
        yield parts
        parts *= 2


def _trial(stage: LearningStage, plan: StagePlan, base: Base, most: int | None = None) -> Trial:
    """What is measured of a planned stage. most: tokens, of the whole step, as one micro-batch."""
    assert plan.batch is not None and plan.adapter is not None
    length = length_of(stage, base)
    amount = plan.amount
    looked = (amount.lengths if amount is not None else ()) or (max(1, round(plan.batch.length)),)
    wanted = plan.batch.tokens / plan.batch.workers
    lengths = _drawn(looked, wanted if most is None else min(wanted, most))
    return Trial(
        config=base.config,
        adapter=plan.adapter,
        lengths=lengths,
        loss=amount.loss if amount is not None else 1.0,
        max_length=length,
        on_gpu=plan.cluster.gpus_per_worker > 0,
        threads=plan.cluster.cpus_per_worker,
        precision=plan.precision,
        packing=stage.packing is not False,
        checkpointing=plan.checkpointing,
        attention=stage.attention,
        accumulate=stage.batch.accumulate if most is None else 1,
    )


def _drawn(lengths: Sequence[int], tokens: float) -> tuple[int, ...]:
    """Of records one after the other, until they hold so many tokens."""
    found: list[int] = []
    while not found or sum(found) < tokens:
        found.append(lengths[len(found) % len(lengths)])
    return tuple(found)


def _best(rule: Any, taken: dict[Any, float]) -> Any:
    """The fastest; what a run takes by rule, unless another is faster by more than noise."""
    if not taken:
        return rule
    fastest = min(taken, key=lambda one: taken[one])
    return rule if rule in taken and taken[fastest] > _WORTH * taken[rule] else fastest


def _named(fields: dict[str, str], values: tuple[Any, ...]) -> str:
    words = {"gradient_checkpointing": {True: "checkpointing", False: "without"}}
    return " ".join(words.get(key, {}).get(one, f"×{one}") for key, one in zip(fields, values, strict=True))


def _told(taken: dict[Any, float]) -> str:
    """`sdpa 1.2 s, eager 1.9 s a step`."""
    each = (f"{one if isinstance(one, str) else json.dumps(one)} {seconds:.2g} s" for one, seconds in taken.items())
    return f"measured: {', '.join(each)} a step" if taken else ""


def _key(recipe: Recipe, name: str, fields: dict[str, str], base: Base) -> str:
    """A digest of all that the choice depends on but the machine."""
    stage = _stage(recipe, name)
    adapter, cluster = stage.adapter or recipe.adapter, stage.cluster or recipe.cluster
    told = {
        "fields": list(fields),
        "config": base.config,
        "adapter": adapter.model_dump(mode="json"),
        "cluster": cluster.model_dump(mode="json"),
        "stage": stage.model_dump(mode="json", include=_DECIDE),
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


_DECIDE = {
    "kind",
    "data",
    "prompts",
    "max_length",
    "batch",
    "packing",
    "attention",
    "gradient_checkpointing",
    "optimizer",
}
