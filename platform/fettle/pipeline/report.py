"""What a run tells: an object and its tables; `page.py` writes it down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from fettle.artifact import read_artifact
from fettle.evaluate.parity import Parity
from fettle.pipeline.evaluated import Comparison, Evaluation, Measurement, Preferred, Retention, TaskScores
from fettle.pipeline.gate import Check, Verdict, goal
from fettle.pipeline.planned import Planned
from fettle.pipeline.stage_graph import Edge, edges_of
from fettle.recipe import Recipe


@dataclass(frozen=True)
class StageReport:
    """One stage of a run. seconds: of training. tokens: loss_bearing and all. loss: first, last (means over the first
    and last tenth of the steps), heldout_before, heldout_after; each a mean over `unit`, in nats. measures: others of
    the held-out records, before and after. interpolation: of a merge that is held to a budget. A stage that trains
    nothing has no steps, and None for all losses.
    """

    name: str
    kind: str
    cached: bool
    seconds: float
    steps: int
    tokens: dict[str, int]
    artifact: dict[str, str]
    loss: dict[str, float | None]
    unit: str = "token"
    measures: dict[str, dict[str, float | None]] = field(default_factory=dict)
    iterations: int | None = None
    reward: dict[str, float | None] | None = None
    kl: float | None = None
    gap: dict[str, float | None] | None = None
    phases: dict[str, float] | None = None
    interpolation: dict[str, Any] | None = None


@dataclass(frozen=True)
class Report:
    """A finished run. out: its folder. evaluations: of its base and its last stage's result. checks: of those, what the
    recipe wants; published: the version that the result is in a registry, where all of them are met. edges: what each
    stage was made from. command: which ran it. parity: of what was to be published."""

    recipe: str
    out: Path
    seconds: float
    stages: tuple[StageReport, ...]
    evaluations: tuple[Comparison, ...] = ()
    checks: tuple[Check, ...] = ()
    published: str | None = None
    edges: tuple[Edge, ...] = ()
    command: str = ""
    parity: Parity | None = None

    @property
    def artifact(self) -> Path:
        """The last stage's artifact."""
        return Path(self.stages[-1].artifact["path"])

    @property
    def goal(self) -> str | None:
        """Whether the result is what the recipe wants of it, in a line; None where it wants nothing."""
        return goal(self.checks)


def make_report(
    recipe: Recipe,
    out: Path,
    stages: Sequence[Planned],
    cached: set[str],
    seconds: float,
    evaluations: tuple[Comparison, ...] = (),
    verdict: Verdict | None = None,
    command: str = "",
) -> Report:
    """The report of stages that are all done."""
    verdict = verdict or Verdict()
    rows = []
    for stage in stages:
        artifact = read_artifact(stage.artifact)
        rows.append(
            StageReport(
                name=stage.spec.name,
                kind=stage.spec.kind,
                cached=stage.spec.name in cached,
                artifact={"path": str(artifact.path), "digest": artifact.digest, "kind": artifact.kind},
                **artifact.metrics,
            )
        )
    return Report(
        recipe=recipe.name,
        out=out,
        seconds=round(seconds, 1),
        stages=tuple(rows),
        evaluations=evaluations,
        checks=verdict.checks,
        published=verdict.published,
        edges=edges_of(stages),
        command=command,
        parity=verdict.parity,
    )


def table(report: Report) -> Table:
    """The short table at the end of a run."""
    has_rewards = any(row.reward is not None for row in report.stages)
    drawn = Table(box=None, pad_edge=False, caption="of rl: rewards" if has_rewards else None, caption_justify="right")
    for name in ("stage", "kind", "steps", "tokens", "time", "training loss", "held-out loss"):
        drawn.add_column(name, justify="left" if name in {"stage", "kind"} else "right", no_wrap=True)
    for row in report.stages:
        spent = "cached" if row.cached else f"{row.seconds:.0f} s"
        train, heldout = as_losses(row)
        steps, tokens = (str(row.steps), f"{row.tokens['all']:,}") if row.steps else ("–", "–")
        drawn.add_row(row.name, row.kind, steps, tokens, spent, train, heldout)
    return drawn


def evaluation_table(report: Report) -> Table:
    """The base against the result, with the intervals; of retention every stage against its base."""
    drawn = Table(box=None, pad_edge=False)
    for name in ("evaluated on", "before", "after"):
        drawn.add_column(name, justify="left" if name == "evaluated on" else "right", no_wrap=True)
    for one in report.evaluations:
        if isinstance(one, Retention):
            drawn.add_row(f"{Path(one.after.data).name}, kept", "loss", "forgotten")
            drawn.add_row(f"  {one.before.model}", as_score(one.before, "loss"), "–")
            for row in one.stages:
                drawn.add_row(f"  {row.stage}", as_interval(row.loss), as_interval(row.forgetting, "+"))
            if len(one.stages) > 1:
                (worst,) = (row for row in one.stages if row.stage == one.worst)
                drawn.add_row(f"  most by {worst.stage}", f"added to {worst.parent}", as_interval(worst.added, "+"))
            continue
        drawn.add_row(Path(one.after.data).name, one.before.model, one.after.model)
        for name in one.after.scores:
            drawn.add_row(f"  {name}", *(as_score(each, name) for each in (one.before, one.after)))
            if one.few_shot is not None:
                drawn.add_row(f"    after {one.few_shot.examples}", as_score(one.few_shot, name), "")
        if isinstance(one, Preferred):
            drawn.add_row("", "", ", ".join(f"{name} {count:,}" for name, count in one.counts.items()))
    return drawn


def unearned(report: Report) -> list[str]:
    """A line for each score that the untuned base reaches as well, once it has seen some examples."""
    return [
        f"{one.few_shot.model} after {one.few_shot.examples} does no worse than {one.after.model} on"
        f" {Path(one.after.data).name}: {name} {one.few_shot.scores[name]['mean']:.3f} and {told['mean']:.3f}"
        for one in report.evaluations
        if one.few_shot is not None
        for name, told in one.after.scores.items()
        if one.few_shot.scores[name]["mean"] >= told["mean"] and one.few_shot.scores[name]["mean"] > 0
    ]


def as_score(side: Evaluation | Measurement | TaskScores, name: str) -> str:
    """A mean and its interval; a dash where the side has none: the other model has no win rate over itself."""
    return as_interval(side.scores[name]) if name in side.scores else "–"


def as_interval(score: Mapping[str, float], sign: str = "") -> str:
    """A mean and its interval; sign: `+` where it is a difference."""
    digits = 3 if abs(score["mean"]) < 100 else 1
    mean, low, high = (f"{score[name]:{sign}z.{digits}f}" for name in ("mean", "low", "high"))
    return f"{mean} ({low} to {high})"


def as_losses(row: StageReport) -> tuple[str, str]:
    """Of training and held out; of reinforcement learning the rewards."""
    told = row.loss if row.reward is None else row.reward

    def pair(one: str, other: str) -> str:
        first, last = told[one], told[other]
        return "–" if first is None or last is None else f"{first:.2f} → {last:.2f}"

    return pair("first", "last"), pair("heldout_before", "heldout_after")
