"""What a run tells: an object, report.json, report.html with the loss curves, and a table."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from jinja2 import Environment, FileSystemLoader
from rich.table import Table

from fettle.artifact import read_artifact, replace_text
from fettle.pipeline.evaluated import Comparison, Evaluation, Measurement, Retention
from fettle.pipeline.gate import Check, Verdict
from fettle.pipeline.planned import Planned
from fettle.recipe import Recipe
from fettle.rl.charts import figure
from fettle.rl.recorder import ITERATIONS, read_rows
from fettle.train.progress import StepRow, curve

_OF_RL = ("iterations", "reward", "kl", "gap", "phases")


@dataclass(frozen=True)
class StageReport:
    """One stage of a run. seconds: of training. tokens: loss_bearing and all. loss: first, last (means over the first
    and last tenth of the steps), heldout_before, heldout_after; each a mean over `unit`, in nats. measures: others of
    the held-out records, before and after. A stage that trains nothing has no steps, and None for all losses.
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


@dataclass(frozen=True)
class Report:
    """A finished run. out: its folder. evaluations: of its base and its last stage's result. checks: of those, what the
    recipe wants; published: the version that the result is in a registry, where all of them are met."""

    recipe: str
    out: Path
    seconds: float
    stages: tuple[StageReport, ...]
    evaluations: tuple[Comparison, ...] = ()
    checks: tuple[Check, ...] = ()
    published: str | None = None

    @property
    def artifact(self) -> Path:
        """The last stage's artifact."""
        return Path(self.stages[-1].artifact["path"])


def make_report(
    recipe: Recipe,
    out: Path,
    stages: Sequence[Planned],
    cached: set[str],
    seconds: float,
    evaluations: tuple[Comparison, ...] = (),
    verdict: Verdict | None = None,
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
    return Report(recipe.name, out, round(seconds, 1), tuple(rows), evaluations, verdict.checks, verdict.published)


def write_report(report: Report, stages: Sequence[Planned]) -> None:
    """`report.json` and `report.html` in the run's folder, each whole or as it was."""
    told = asdict(report) | {"out": str(report.out)}
    told["checks"] = [asdict(check) | {"is_met": check.is_met} for check in report.checks]
    for row in told["stages"]:
        if row["kind"] != "rl":
            for name in _OF_RL:
                del row[name]
    replace_text(report.out / "report.json", json.dumps(told, indent=2) + "\n")
    pairs = zip(stages, report.stages, strict=True)
    curves = [_curve(stage, row) for stage, row in pairs]
    how = {"losses": _losses, "score": _score, "interval": _interval}
    page = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True).get_template("report.html")
    replace_text(report.out / "report.html", page.render(report=report, curves=curves, **how))


def _curve(stage: Planned, row: StageReport) -> str:
    if row.reward is None:
        return _svg(curve(stage.folder / "progress.jsonl"), row) if row.steps else ""
    told = [(0, row.reward["heldout_before"]), (row.iterations or 0, row.reward["heldout_after"])]
    heldout = [(done, value) for done, value in told if value is not None]
    return figure(read_rows(stage.folder / ITERATIONS), heldout)


def table(report: Report) -> Table:
    """The short table at the end of a run."""
    has_rewards = any(row.reward is not None for row in report.stages)
    drawn = Table(box=None, pad_edge=False, caption="of rl: rewards" if has_rewards else None, caption_justify="right")
    for name in ("stage", "kind", "steps", "tokens", "time", "training loss", "held-out loss"):
        drawn.add_column(name, justify="left" if name in {"stage", "kind"} else "right", no_wrap=True)
    for row in report.stages:
        spent = "cached" if row.cached else f"{row.seconds:.0f} s"
        train, heldout = _losses(row)
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
            drawn.add_row(f"  {one.before.model}", _score(one.before, "loss"), "–")
            for row in one.stages:
                drawn.add_row(f"  {row.stage}", _interval(row.loss), _interval(row.forgetting, "+"))
            if len(one.stages) > 1:
                (worst,) = (row for row in one.stages if row.stage == one.worst)
                drawn.add_row(f"  most by {worst.stage}", f"added to {worst.parent}", _interval(worst.added, "+"))
            continue
        drawn.add_row(Path(one.after.data).name, one.before.model, one.after.model)
        for name in one.after.scores:
            drawn.add_row(f"  {name}", *(_score(each, name) for each in (one.before, one.after)))
    return drawn


def _score(evaluation: Evaluation | Measurement, name: str) -> str:
    return _interval(evaluation.scores[name])


def _interval(score: Mapping[str, float], sign: str = "") -> str:
    """A mean and its interval; sign: `+` where it is a difference."""
    digits = 3 if abs(score["mean"]) < 100 else 1
    mean, low, high = (f"{score[name]:{sign}z.{digits}f}" for name in ("mean", "low", "high"))
    return f"{mean} ({low} to {high})"


def _losses(row: StageReport) -> tuple[str, str]:
    """Of training and held out; of reinforcement learning the rewards."""
    told = row.loss if row.reward is None else row.reward

    def pair(one: str, other: str) -> str:
        first, last = told[one], told[other]
        return "–" if first is None or last is None else f"{first:.2f} → {last:.2f}"

    return pair("first", "last"), pair("heldout_before", "heldout_after")


def _svg(rows: Sequence[StepRow], stage: StageReport) -> str:
    """The stage's loss curve as an SVG element: the steps, and the held-out loss before and after."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 2.8), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([r.step for r in rows], [r.loss for r in rows], color="#2f6db3", linewidth=1.2, label="training")
    before, after = stage.loss["heldout_before"], stage.loss["heldout_after"]
    if before is not None and after is not None and rows:
        axes.plot([0, rows[-1].step], [before, after], "o", color="#c4622d", label="held out, before and after")
    axes.set_xlabel("optimizer step")
    axes.set_ylabel(f"{'nats' if stage.unit == 'token' else 'loss'} per {stage.unit}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e6e6e6")
    axes.legend(frameon=False)
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]
