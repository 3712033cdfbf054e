"""What all trials of a sweep share, and how they are named and judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fettle.errors import StageFailed
from fettle.pipeline.graph import plan_stages
from fettle.pipeline.planned import Planned, hash_of
from fettle.recipe import Recipe
from fettle.recipe.load import varied
from fettle.recipe.rl import RlStage
from fettle.train.checkpoint import Fence
from fettle.train.job import StageFunction
from fettle.tune.space import Settings, as_settings


@dataclass(frozen=True)
class Sweep:
    """What every trial's worker is given. functions: what trains a stage, by kind. concurrent: trials at a time."""

    recipe: Recipe
    out: Path
    fence: Fence
    functions: Mapping[str, StageFunction]
    concurrent: int

    @property
    def stage(self) -> str:
        """The stage that the metric is of."""
        return metric_stage(self.recipe)

    def settings(self, drawn: Mapping[str, Any]) -> tuple[Settings, str | None]:
        """(a trial's settings, who of a population it is) of what a search has drawn."""
        assert self.recipe.sweep is not None
        return as_settings(self.recipe.sweep.space, drawn), drawn.get("member")

    def own(self, drawn: Mapping[str, Any], tunes_id: str) -> Mapping[str, Any]:
        """What was drawn for a trial of Tune's, under the name it was given first: with the weights of another, Tune
        hands it that one's name too, beside its settings, changed."""
        if "member" not in drawn:
            return drawn
        who = self.out / "ray" / f".who-{self.fence.token}-{tunes_id}"
        if not who.exists():
            who.parent.mkdir(parents=True, exist_ok=True)
            who.write_text(drawn["member"], encoding="utf-8")
        return {**drawn, "member": who.read_text(encoding="utf-8")}

    def planned(self, settings: Settings, member: str | None = None) -> list[Planned]:
        """The stages of a trial. member: of a population, whose settings change on the way: its last stage is found by
        who it is, and not by these."""
        stages = plan_stages(varied(self.recipe, settings), self.out, self.stage)
        if member is not None:
            last = stages[-1]
            fingerprint = hash_of(["pbt", member, stages[-2].fingerprint if len(stages) > 1 else None])
            label = f"{last.spec.name}-{fingerprint[:12]}"
            folders: Any = {"folder": self.out / "stages" / label, "artifact": self.out / "artifacts" / label}
            stages[-1] = replace(last, fingerprint=fingerprint, **folders)
        return stages


def metric_stage(recipe: Recipe) -> str:
    """The stage that trials end with."""
    assert recipe.sweep is not None
    return recipe.sweep.metric.stage or recipe.stages[-1].name


def is_alone(stage: Planned) -> bool:
    """Whether a stage's one worker can be the trial's own process."""
    return stage.cluster.workers == 1 and stage.cluster.zero == 0 and not isinstance(stage.spec, RlStage)


def trial_id(settings: Settings, member: str | None) -> str:
    """What names a trial's files: its settings, or who of a population it is."""
    return member or f"trial-{hash_of(settings)[:10]}"


def figure(metrics: Mapping[str, Any], name: str) -> float | None:
    """A figure of a stage's row, by its dotted path. Raises StageFailed where it has none."""
    here: Any = metrics
    for depth, part in enumerate(name.split(".")):
        if not isinstance(here, Mapping) or part not in here:
            above = ".".join(name.split(".")[:depth])
            known = ", ".join(here) if isinstance(here, Mapping) else "no keys"
            raise StageFailed(f"the stage's report has no {name}" + (f"; {above} has {known}" if above else ""))
        here = here[part]
    return float(here) if here is not None else None


def measure_of(name: str) -> str:
    """What a metric is called among the measures of a round: the loss, or another of the held-out records."""
    return "loss" if name == "loss.heldout_after" else name.removeprefix("measures.").removesuffix(".after")
