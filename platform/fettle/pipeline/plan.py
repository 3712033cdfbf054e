"""The plan of a recipe as an object: stages, whether they fit, what would make them; and as what is refused."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fettle.errors import DoesNotFit, UserError
from fettle.needs.machines import Machines, in_gib, machines_in, machines_of, this_machine
from fettle.needs.memory import BOUND
from fettle.needs.rates import read_rates
from fettle.pipeline.autos import chosen_for
from fettle.pipeline.changes import Change, changes_for
from fettle.pipeline.choosing import Choice
from fettle.pipeline.fitting import judged
from fettle.pipeline.planning import StagePlan, plan_recipe
from fettle.recipe import Recipe, load_recipe
from fettle.recipe.load import varied
from fettle.recipe.yaml_lines import parse_value

_OFF = 1.1
"""Times as much memory as there is, from which on a run is refused: a plan is off by a tenth at worst."""


@dataclass(frozen=True)
class Plan:
    """recipe: as it was planned. sets: what was laid over it so that it uses the GPUs that were named. machines: where
    it is to run. changes: of stages that do not fit, by name, what would make them. price: dollars an hour of a GPU, or
    a core, where it was told. choices: what stands for the recipe's `auto`s."""

    recipe: Recipe
    machines: Machines
    stages: tuple[StagePlan, ...]
    changes: dict[str, list[Change]]
    sets: dict[str, str]
    price: float | None = None
    choices: tuple[Choice, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether every stage does."""
        return not any(stage.problems for stage in self.stages)

    @property
    def seconds(self) -> float | None:
        """Of all stages that learn, one after the other; None where one's steps are not known."""
        told = [stage.seconds for stage in self.stages if stage.batch is not None]
        return None if None in told else sum(one or 0.0 for one in told)

    @property
    def dollars(self) -> float | None:
        """Of all of them."""
        told = [stage.dollars(self.machines, self.price) for stage in self.stages if stage.batch is not None]
        return None if None in told else sum(one or 0.0 for one in told)


def plan(
    recipe: str | Path,
    set: Mapping[str, Any] | None = None,
    until: str | None = None,
    *,
    gpus: str | None = None,
    on: str | Path | None = None,
    price: float | None = None,
) -> Plan:
    """What the recipe's stages take, on this machine, on GPUs by name (`8xH100`) or on the nodes of a Ray launcher's
    cluster file (on). set, until: as of `run`. price: dollars an hour of a GPU, or of a core where no GPU is used.

    Reads no weights and starts nothing. Raises UserError where the recipe, a base, data or the machines are not there.
    """
    if gpus is not None and on is not None:
        raise UserError("--gpus and --on both say where", field="--on", expected="one of them")
    loaded = load_recipe(recipe, set)
    if until is not None and until not in (names := [stage.name for stage in loaded.stages]):
        raise UserError(f"--until {until}: no such stage", file=loaded.file, expected=", ".join(names))
    out = Path("runs", loaded.name)
    machines = machines_of(gpus) if gpus is not None else machines_in(Path(on)) if on else this_machine(out)
    sets = _for_gpus(loaded) if gpus is not None else {}
    if sets:
        loaded = load_recipe(recipe, {**sets, **(set or {})})
    chosen = chosen_for(loaded, out, until, None if machines.is_here else machines)
    found = plan_loaded(chosen.recipe, machines, until, sets=sets, price=price)
    return replace(found, choices=chosen.choices)


def plan_loaded(
    loaded: Recipe,
    machines: Machines,
    until: str | None = None,
    *,
    sets: dict[str, str] | None = None,
    price: float | None = None,
) -> Plan:
    """As `plan`, of a recipe that is read."""
    rates = read_rates()
    stages = judged(plan_recipe(loaded, machines, rates, until), machines)
    changes: dict[str, list[Change]] = {}
    for stage in stages:
        if not stage.problems:
            continue

        def tried(more: Mapping[str, str], name: str = stage.name) -> StagePlan:
            recipe = varied(loaded, {key: parse_value(text, key, loaded.file) for key, text in more.items()})
            for rough in (0, BOUND, None):  # what is out of the question, or certain, takes no time
                (again,) = judged(plan_recipe(recipe, machines, rates, only=name, rough=rough), machines)
                if rough is None or bool(again.problems) is (rough == 0):
                    break
            return again

        changes[stage.name] = changes_for(loaded, stage, tried, machines.num_gpus - stage.num_gpus)
    return Plan(loaded, machines, tuple(stages), changes, sets or {}, price)


def refusal(found: Plan) -> DoesNotFit | None:
    """What to say of the first stage that does not fit; None where all do."""
    for stage in found.stages:
        if stage.problems:
            lines = [f"{change}   ({change.cost})" for change in found.changes[stage.name]]
            fix = "\n       or ".join(lines) if lines else "a smaller base, or a larger machine"
            return DoesNotFit("; ".join(stage.problems), **found.recipe.where(f"stages.{stage.name}"), fix=fix)
    return None


def check_fits(loaded: Recipe, out: Path, until: str | None) -> str | None:
    """A line on what a run of the recipe takes of this machine's memory. Raises DoesNotFit, in the words of `fettle
    plan`, where that is more than there is by more than a plan is ever off.

    Where a rough bound, which takes a tenth of a second, is below what there is, that is all that is looked at. Not on
    a cluster that a run joins: what its machines have is not known here.
    """
    if os.environ.get("RAY_ADDRESS"):
        return None
    machines = this_machine(out)
    try:
        rough = judged(plan_recipe(loaded, machines, (), until, rough=BOUND), machines)
        if not any(stage.problems for stage in rough):
            return _told(rough, "at most ")
        found = plan_loaded(loaded, machines, until)
    except DoesNotFit:
        raise
    except UserError:  # of what only a plan asks for; what is a mistake for the run too has been told by now
        return None
    if (refused := refusal(found)) is not None:
        if any(stage.problems for stage in judged(found.stages, machines, _OFF)):
            raise refused
        return f"plan      may not fit: {refused.got}; fettle plan tells what would help"
    return _told(found.stages, "")


def _told(stages: Sequence[StagePlan], bound: str) -> str:
    most = max(stages, key=lambda stage: stage.peak.total * stage.cluster.workers)
    return f"plan      fits: {most.name} takes the most memory, {bound}{in_gib(most.peak.total)} a worker"


def _for_gpus(recipe: Recipe) -> dict[str, str]:
    """What makes stages use GPUs that use none."""
    sets = {} if recipe.cluster.gpus_per_worker else {"cluster.gpus_per_worker": "1"}
    own = [stage for stage in recipe.stages if stage.cluster is not None and not stage.cluster.gpus_per_worker]
    return sets | {f"stages.{stage.name}.cluster.gpus_per_worker": "1" for stage in own}
