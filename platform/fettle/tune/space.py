"""The settings that trials have: all of a grid, drawn ones, or what a search is to draw from."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from ray import tune
from ray.tune.search.sample import Domain

from fettle.errors import UserError
from fettle.pipeline.planned import hash_of
from fettle.recipe import Recipe
from fettle.recipe.sweep import DomainSpec, SweepSpec

Settings = dict[str, Any]
"""By dotted key of the recipe, its value in a trial."""
_DIGITS = 4
_DRAWS_PER_TRIAL = 200


def as_domain(spec: DomainSpec) -> Domain:
    """Ray Tune's words for a key's values; a choice is of places in it, as some values are lists or keys."""
    if spec.uniform is not None:
        return tune.uniform(*spec.uniform)
    if spec.loguniform is not None:
        return tune.loguniform(*spec.loguniform)
    if spec.int_ is not None:
        return tune.randint(spec.int_[0], spec.int_[1] + 1)
    assert spec.choice is not None
    return tune.choice(list(range(len(spec.choice))))


def as_settings(space: Mapping[str, DomainSpec], drawn: Mapping[str, Any]) -> Settings:
    """What was drawn from `as_domain`, as values of the recipe: within the bounds, with four digits."""
    return {key: _value(spec, drawn[key]) for key, spec in space.items()}


def settings_of(recipe: Recipe, spec: SweepSpec) -> list[Settings]:
    """Those of all trials, where they are known before the first one: a grid's in its order, else drawn by the recipe's
    seed, each of them once.

    Raises UserError where there are fewer different ones than trials.
    """
    if spec.search == "grid":
        values = [plain(list(one.values or ())) for one in spec.space.values()]
        return [dict(zip(spec.space, one, strict=True)) for one in itertools.product(*values)]
    assert spec.trials is not None
    random = np.random.RandomState(recipe.seed)
    domains = {key: as_domain(one) for key, one in spec.space.items()}
    found: dict[str, Settings] = {}
    for _ in range(_DRAWS_PER_TRIAL * spec.trials):
        drawn = as_settings(spec.space, {key: one.sample(random_state=random) for key, one in domains.items()})
        found.setdefault(hash_of(drawn), drawn)
        if len(found) == spec.trials:
            break
    if len(found) < spec.trials:
        raise UserError(
            f"there are only {len(found)} different settings in the space, for {spec.trials} trials",
            **recipe.where("sweep.trials"),
            fix=f"trials: {len(found)}, more values, or search: grid",
        )
    return list(found.values())


def drawn_from(space: Mapping[str, DomainSpec], settings: Settings) -> dict[str, Any]:
    """The inverse of `as_settings`: what a search has drawn, or could have."""
    return {
        key: settings[key] if spec.choice is None else plain(list(spec.choice)).index(settings[key])
        for key, spec in space.items()
    }


def plain(value: Any) -> Any:
    """The value as JSON has it: a specification's lists are tuples."""
    return json.loads(json.dumps(value))


def _value(spec: DomainSpec, drawn: Any) -> Any:
    if spec.choice is not None:
        return plain(spec.choice[int(drawn)])
    assert spec.bounds is not None
    low, high = spec.bounds
    if spec.int_ is not None:
        return int(min(max(round(drawn), low), high))
    digits = _DIGITS - 1 - math.floor(math.log10(abs(drawn))) if drawn else 0
    return float(min(max(round(float(drawn), digits), low), high))
