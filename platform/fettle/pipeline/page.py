"""What a run tells, written down: report.json, and report.html, one file that needs no other."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader

from fettle.artifact import is_artifact, replace_text
from fettle.pipeline.console import duration
from fettle.pipeline.evaluated import Retention
from fettle.pipeline.lineage import Artifacts, Descent, in_words, lines
from fettle.pipeline.planned import Planned
from fettle.pipeline.report import Report, StageReport, as_interval, as_losses, unearned
from fettle.pipeline.samples import samples
from fettle.pipeline.stage_graph import ROW, drawing, made_from
from fettle.rl.charts import charts
from fettle.rl.recorder import ITERATIONS, read_rows
from fettle.train.chart import Chart, line_chart
from fettle.train.progress import curve

_OF_RL = ("iterations", "reward", "kl", "gap", "phases")
_CUT = 320  # characters of a text that is longer, which are shown before it is opened
_MEASURED = ("loss", "loss held out", "reward", "reward held out", "evaluated")


@dataclass(frozen=True)
class Figure:
    """One of the first figures of a page, in words. before: None where there is nothing to compare with."""

    what: str
    before: str | None
    after: str


def write_report(report: Report, stages: Sequence[Planned]) -> None:
    """`report.json` and `report.html` in the run's folder, each whole or as it was."""
    told = asdict(report) | {"out": str(report.out)}
    told["checks"] = [asdict(check) | {"is_met": check.is_met} for check in report.checks]
    told["goal"] = report.goal
    for row in told["stages"]:
        if row["kind"] != "rl":
            for name in _OF_RL:
                del row[name]
        if row["interpolation"] is None:
            del row["interpolation"]
    replace_text(report.out / "report.json", json.dumps(told, indent=2) + "\n")
    drawn = {stage.spec.name: _charts(stage, row) for stage, row in zip(stages, report.stages, strict=True)}
    descents = [Artifacts([]).descent(Path(row.artifact["path"]))[0] for row in report.stages]
    replace_text(report.out / "report.html", page(report, drawn, descents))


def page(report: Report, drawn: dict[str, list[Chart]], descents: Sequence[Descent]) -> str:
    """The page's text. drawn: of each stage its charts. descents: where each stage's artifact comes from."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    known = {descent.artifact.name: [one for one in lines(descent) if one[0] not in _MEASURED] for descent in descents}
    return environment.get_template("report.html").render(
        report=report,
        rows={row.name: row for row in report.stages},
        figures=_figures(report),
        unearned=unearned(report),
        graph=drawing([row.name for row in report.stages], report.edges),
        row_height=ROW,
        made_from=made_from,
        in_words=in_words,
        most_seconds=max(row.seconds for row in report.stages),
        charts=drawn,
        compared=[one for one in report.evaluations if not isinstance(one, Retention)],
        retained=[one for one in report.evaluations if isinstance(one, Retention)],
        samples=samples(report.evaluations, report.out),
        descents=descents,
        known=known,
        facts=_facts(list(known.values())),
        data=[row for descent in descents for row in _data(descent)],
        reproduce=shlex.join(["fettle", "reproduce", str(report.out)]),
        cut=_CUT,
        duration=duration,
        losses=as_losses,
        interval=as_interval,
    )


def _facts(known: Sequence[list[tuple[str, str]]]) -> list[tuple[str, str]]:
    """(what, told) of the whole run: what the first stage began from, and what holds for the last one."""
    began = [("began from", told) for of, told in known[0] if of == "made from"]
    return began[:1] + [one for one in known[-1] if one[0] in ("recipe", "seed", "code", "made with", "licences")]


def _data(descent: Descent) -> Iterator[tuple[str, str, str, str]]:
    """(stage, path, what it is used for, digest) of all that a stage has read."""
    stage, sources = descent.artifact.name, descent.stage.get("data", [])
    for one in sources:
        yield stage, one["path"], one["use"], one["digest"]
    # Where no tracker is told, only what was learned from is known.
    paths = {one["path"] for one in sources}
    for path, digest in descent.artifact.data.items():
        if path not in paths and not is_artifact(path):
            yield stage, path, "training", digest


def _figures(report: Report) -> list[Figure]:
    """What the run came to: the first score of each evaluation, else what the last stage that learned lost."""
    found = []
    for one in report.evaluations:
        data = Path(one.after.data).name
        if isinstance(one, Retention):
            found.append(
                Figure(f"forgotten of {data}, nats a token", None, f"{one.after.scores['forgetting']['mean']:+.3f}")
            )
        else:
            name, after = next(iter(one.after.scores.items()))
            before = one.before.scores.get(name)
            found.append(
                Figure(f"{name} on {data}", f"{before['mean']:.3f}" if before else None, f"{after['mean']:.3f}")
            )
    if found:
        return found
    for row in reversed(report.stages):
        _, heldout = as_losses(row)
        if "→" in heldout:
            before_text, _, after_text = heldout.partition(" → ")
            what = "reward" if row.reward is not None else "loss"
            return [Figure(f"held-out {what}, {row.name}", before_text, after_text)]
    return []


def _charts(stage: Planned, row: StageReport) -> list[Chart]:
    if row.reward is not None:
        return charts(row.name, read_rows(stage.folder / ITERATIONS), _heldout(row.reward, row.iterations or 0))
    if not row.steps:
        return []
    steps = curve(stage.folder / "progress.jsonl")
    title = "Loss, nats a token" if row.unit == "token" else f"Loss a {row.unit}"
    dots = _heldout(row.loss, row.steps)
    return [line_chart(row.name, title, [(one.step, one.loss) for one in steps], x="optimizer step", dots=dots)]


def _heldout(told: dict[str, float | None], end: int) -> list[tuple[float, float]]:
    both = ((0, told["heldout_before"]), (end, told["heldout_after"]))
    return [(at, value) for at, value in both if value is not None]
