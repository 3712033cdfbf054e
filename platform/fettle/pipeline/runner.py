"""Runs a recipe: what is done is skipped, what was interrupted goes on, the rest is trained."""

from __future__ import annotations

import fcntl
import json
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.console import Console

from fettle.artifact import replace_text, sweep_partials
from fettle.cluster import ray_session
from fettle.errors import UserError
from fettle.models.family import family_of
from fettle.pipeline.console import ProgressLine, plain, quiet
from fettle.pipeline.evaluation import check_evaluations, compare
from fettle.pipeline.gate import Verdict, check_publishable, judge
from fettle.pipeline.graph import plan_stages
from fettle.pipeline.planned import Planned, PlannedLearning
from fettle.pipeline.prepare import prepare
from fettle.pipeline.report import Report, evaluation_table, make_report, table, write_report
from fettle.pipeline.tracking import tracked
from fettle.plan.preflight import check_cpus, check_disk
from fettle.recipe import Recipe, load_recipe
from fettle.registry.reference import PRODUCTION
from fettle.rl.stage import rl
from fettle.serving.weights import why_not_applied
from fettle.signals import interruptible
from fettle.train.checkpoint import Fence
from fettle.train.group import run_group
from fettle.train.job import Job, StageFunction
from fettle.train.stages.classify import classify
from fettle.train.stages.distill import distill
from fettle.train.stages.merge import merge
from fettle.train.stages.preference import preference
from fettle.train.stages.pretrain import pretrain
from fettle.train.stages.quantize import quantize
from fettle.train.stages.reward import reward
from fettle.train.stages.sft import sft

_GOES_ON = "; the same command goes on from here"
STAGES: dict[str, StageFunction] = {
    "pretrain": pretrain,
    "sft": sft,
    "classify": classify,
    "preference": preference,
    "reward": reward,
    "rl": rl,
    "distill": distill,
    "merge": merge,
    "quantize": quantize,
}


def run(
    recipe: str | Path,
    out: str | Path | None = None,
    set: Mapping[str, Any] | None = None,
    until: str | None = None,
) -> Report:
    """Trains the recipe's stages and returns the report; it also lies in `out` as report.json and report.html.

    out: the run's folder, by default runs/NAME. set: dotted key → value over the recipe's own. until: the last stage to
    run. Raises UserError (nothing started, nothing left behind), StageFailed, or Interrupted on SIGINT and SIGTERM.
    """
    loaded = load_recipe(recipe, set)
    folder = Path(out).expanduser().resolve() if out is not None else Path("runs", loaded.name).resolve()
    _check_free(folder, loaded)
    began = time.monotonic()
    is_new = not folder.exists()
    with _nothing_left(folder if is_new else None):
        stages = plan_stages(loaded, folder, until)
        waiting = [stage for stage in stages if not stage.is_done]
        for stage in waiting:
            check_cpus(loaded, stage.spec, stage.cluster)
        keeps = [stage.spec.num_checkpoints if isinstance(stage, PlannedLearning) else None for stage in waiting]
        check_disk(folder, [(stage.origin.root, keep) for stage, keep in zip(waiting, keeps, strict=True)])
        check_evaluations(loaded, stages)
        is_whole = stages[-1].spec.name == loaded.stages[-1].name
        if is_whole:
            check_publishable(loaded, stages)
    with interruptible(_GOES_ON), _taken(folder, loaded) as fence:
        with _nothing_left(folder if is_new else None):
            jobs, notes = prepare(loaded, waiting, folder / "tokens")
        with quiet(folder / "logs" / "run.log") as console, tracked(loaded, stages, folder, plain(console)):
            console.print(f"{loaded.name}: {_summary(stages, waiting)}; log {_near(folder / 'logs')}")
            for note in [*notes, *_left_behind(waiting)]:
                console.print(note, markup=False)
            if waiting:
                _train(waiting, jobs, fence, folder, console)
            cached = {stage.spec.name for stage in stages if stage not in waiting}
            compared = compare(loaded, stages, folder, plain(console))
            verdict = judge(loaded, compared, stages[-1].artifact) if is_whole else Verdict()
            report = make_report(loaded, folder, stages, cached, time.monotonic() - began, compared, verdict)
            write_report(report, stages)
            console.print(table(report))
            if report.evaluations:
                console.print(evaluation_table(report))
            for check in report.checks:
                console.print(f"{'met' if check.is_met else 'NOT MET':<9} {check}", markup=False)
            console.print(f"report    {_near(folder / 'report.html')}")
            if verdict.why_not is not None:
                raise verdict.why_not
            if report.published is not None:
                console.print(f"published {_published(loaded, report.published)}", markup=False)
            is_model = report.stages[-1].artifact["kind"] in ("model", "adapter")
            if is_model and family_of(stages[-1].origin.root) == "causal":
                console.print(_what_next(report.artifact), markup=False)
    return report


def _published(recipe: Recipe, version: str) -> str:
    assert recipe.publish is not None
    name, alias = version.partition(":")[0], recipe.publish.alias
    at = f"--registry {_near(recipe.resolve(recipe.publish.registry))}"
    told = f"{version} is {name}@{alias}"
    return told if alias == PRODUCTION else f"{told}; into production: fettle promote {name}@{alias} {at}"


def _what_next(artifact: Path) -> str:
    """How to use a language model's artifact."""
    found = why_not_applied(artifact) if (artifact / "adapter_config.json").is_file() else None
    if found is None:
        return f"serve it  fettle serve {_near(artifact)}"
    what, instead = found
    return f"serve it  not as it is: vLLM does not apply {what}; {instead}"


@contextmanager
def _nothing_left(folder: Path | None) -> Iterator[None]:
    """A mistake of the user's leaves nothing behind: the folder goes, if one is given."""
    try:
        yield
    except UserError:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _near(path: Path) -> str:
    """The path as one would type it from here."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _train(waiting: Sequence[Planned], jobs: Sequence[Job], fence: Fence, folder: Path, console: Console) -> None:
    by_name = {job.name: job for job in jobs}
    with ray_session():
        for cluster, members in groupby(waiting, key=lambda stage: stage.cluster):
            for stages in _groups(list(members)):
                group = [(by_name[stage.spec.name], STAGES[stage.spec.kind]) for stage in stages]
                workers = f"{cluster.workers} worker{'s' if cluster.workers > 1 else ''}, ZeRO {cluster.zero}"
                console.print(f"starting {workers}, {stages[0].precision}: {', '.join(job.name for job, _ in group)}")
                line = ProgressLine(console, [job for job, _ in group])
                try:
                    run_group(group, cluster, fence=fence, out=folder, watch=line.update)
                    line.update()
                finally:
                    line.close()


def _left_behind(waiting: Sequence[Planned]) -> list[str]:
    """What to tell of stages that begin anew although an earlier attempt, under other settings, was under way."""
    return [
        f"{stage.spec.name}: begins anew; {other.name}, interrupted under other settings, is kept and not used"
        for stage in waiting
        for other in sorted(stage.folder.parent.glob(f"{stage.spec.name}-{'?' * 12}"))
        if other != stage.folder and any(other.glob("checkpoints/step-*"))
    ]


def _groups(stages: list[Planned]) -> list[list[Planned]]:
    """Stages of one cluster spec in worker groups: one for all, but with ZeRO 3 one each (its sharded weights stay)."""
    return [[stage] for stage in stages] if stages[0].cluster.zero == 3 else [stages]


def _summary(stages: Sequence[Planned], waiting: Sequence[Planned]) -> str:
    done = len(stages) - len(waiting)
    return f"{len(stages)} stage{'s' if len(stages) != 1 else ''}" + (f", {done} already done" if done else "")


def _check_free(folder: Path, recipe: Recipe) -> None:
    """Raises UserError where the folder holds the run of a recipe of another name."""
    try:
        told = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    if told["recipe"] != recipe.name:
        raise UserError(
            f"{folder} holds a run of '{told['recipe']}'",
            **recipe.where("name"),
            expected="one recipe a folder",
            fix="name another folder with --out",
        )


@contextmanager
def _taken(folder: Path, recipe: Recipe) -> Iterator[Fence]:
    """Yields the fence of this run, which alone may write to `folder` from now on."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"another run is working in {folder}", fix="wait for it, or name another folder with --out"
            ) from None
        told = {"recipe": recipe.name, "file": str(recipe.file), "digest": recipe.digest()}
        replace_text(folder / "run.json", json.dumps(told))
        token = uuid.uuid4().hex[:12]
        replace_text(folder / ".epoch", token)
        for one in (folder / "artifacts", *folder.glob("stages/*")):
            sweep_partials(one)
        yield Fence(folder / ".epoch", token)
