"""Runs a recipe: what is done is skipped, what was interrupted goes on, the rest is trained."""

from __future__ import annotations

import fcntl
import json
import shlex
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from fettle.artifact import replace_text, sweep_partials
from fettle.errors import UserError
from fettle.models.family import family_of
from fettle.needs.preflight import check_cpus, check_disk
from fettle.pipeline.autos import chosen_for
from fettle.pipeline.console import plain, quiet
from fettle.pipeline.evaluation import check_evaluations, compare
from fettle.pipeline.gate import Verdict, check_publishable, judge
from fettle.pipeline.graph import plan_stages
from fettle.pipeline.lineage import in_words
from fettle.pipeline.measured import write_rates
from fettle.pipeline.mirrored import mirrored
from fettle.pipeline.page import write_report
from fettle.pipeline.parity import parity_of_run
from fettle.pipeline.plan import check_fits
from fettle.pipeline.planned import Planned, PlannedLearning
from fettle.pipeline.prepare import prepare
from fettle.pipeline.replaying import decided, undecided
from fettle.pipeline.report import Report, evaluation_table, make_report, table, unearned
from fettle.pipeline.taking_up import take_up
from fettle.pipeline.tracking import tracked
from fettle.pipeline.training import train
from fettle.pipeline.underway import underway
from fettle.recipe import Recipe, load_recipe
from fettle.registry.reference import PRODUCTION
from fettle.rl.stage import rl
from fettle.serving.weights import why_not_applied
from fettle.signals import interruptible
from fettle.train.checkpoint import Fence
from fettle.train.job import StageFunction
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
    when_trained: Callable[[Path], None] | None = None,
) -> Report:
    """Trains the recipe's stages and returns the report; it also lies in `out` as report.json and report.html.

    out: the run's folder, by default runs/NAME. set: dotted key → value over the recipe's own. until: the last stage to
    run. when_trained: is called with the artifact of the last stage as soon as that has been trained, before anything
    is evaluated. Raises UserError (nothing started, nothing left behind), StageFailed, or Interrupted on SIGINT and
    SIGTERM.
    """
    loaded = load_recipe(recipe, set)
    folder = Path(out).expanduser().resolve() if out is not None else Path("runs", loaded.name).resolve()
    return run_loaded(loaded, folder, until, _command(recipe, folder, set or {}, until), when_trained=when_trained)


def run_loaded(
    loaded: Recipe,
    folder: Path,
    until: str | None,
    command: str,
    *,
    is_published: bool = True,
    when_trained: Callable[[Path], None] | None = None,
) -> Report:
    """As `run`, of a recipe that is read. command: what was typed. is_published: whether `publish` of it is heeded."""
    check_free(folder, loaded)
    began = time.monotonic()
    is_new = not folder.exists()
    with nothing_left(folder if is_new else None):
        chosen = chosen_for(loaded, folder, until)
        loaded = chosen.recipe
        stages = plan_stages(loaded, folder, until)
        waiting = [stage for stage in stages if not stage.is_done]
        for stage in waiting:
            check_cpus(loaded, stage.spec, stage.cluster)
        sent = loaded.storage is not None  # one more stays while it is sent
        keeps = [stage.spec.num_checkpoints + sent if isinstance(stage, PlannedLearning) else None for stage in waiting]
        check_disk(folder, [(stage.origin.root, keep) for stage, keep in zip(waiting, keeps, strict=True)])
        fits = check_fits(loaded, folder, until) if waiting else None
        warnings = check_evaluations(loaded, stages)
        tries = undecided(loaded)
        is_whole = stages[-1].spec.name == loaded.stages[-1].name
        if not is_published:
            loaded = loaded.model_copy(update={"publish": None})  # only now: a stage's `from` may name its registry
        if is_whole:
            check_publishable(loaded, stages)
    with interruptible(_GOES_ON), taken(folder, loaded) as fence:
        chosen.keep(folder)
        with nothing_left(folder if is_new else None):
            is_new &= not take_up(loaded, stages, folder, fence)
        waiting = [stage for stage in waiting if not stage.is_done]
        with nothing_left(folder if is_new else None):
            jobs, notes = prepare(loaded, waiting, folder / "tokens")
        trained: set[str] = set()
        if tries:
            loaded, trained = _decided(loaded, folder, until, fence)
            stages = plan_stages(loaded, folder, until)
            waiting = [stage for stage in stages if not stage.is_done]
            jobs, _ = prepare(loaded, waiting, folder / "tokens")
        with (
            quiet(folder / "logs" / "run.log") as console,
            tracked(loaded, stages, folder, plain(console)),
            mirrored(loaded, folder, plain(console)),
        ):
            console.print(f"{loaded.name}: {_summary(stages, waiting)}; log {near(folder / 'logs')}")
            for note in [*chosen.lines(), *([fits] if fits else []), *notes, *warnings, *underway(waiting, fence)]:
                console.print(note, markup=False)
            if waiting:
                when_done = partial(when_trained, stages[-1].artifact) if when_trained is not None else None
                train(waiting, jobs, STAGES, fence, folder, console, when_done)
            new = trained | {stage.fingerprint for stage in waiting}
            cached = {stage.spec.name for stage in stages if stage.fingerprint not in new}
            compared = compare(loaded, stages, folder, plain(console))
            verdict = Verdict()
            if is_whole:
                seen = partial(parity_of_run, loaded, stages, folder, plain(console))
                verdict = judge(loaded, compared, stages[-1].artifact, seen)
            report = make_report(loaded, folder, stages, cached, time.monotonic() - began, compared, verdict, command)
            write_report(report, stages)
            write_rates(report, stages)
            console.print(table(report))
            for row in (one for one in report.stages if one.interpolation):
                console.print(f"{row.name:<9} {in_words(row.interpolation or {})}", markup=False)
            if report.evaluations:
                console.print(evaluation_table(report))
            for note in unearned(report):
                console.print(f"note      {note}", markup=False)
            for check in report.checks:
                console.print(f"{'met' if check.is_met else 'NOT MET':<9} {check}", markup=False)
            for line in report.parity.lines() if report.parity is not None else []:
                console.print(line, markup=False)
            console.print(f"report    {near(folder / 'report.html')}")
            if report.goal is not None:
                console.print(report.goal, markup=False)
            if verdict.why_not is not None:
                raise verdict.why_not
            if report.published is not None:
                console.print(f"published {_published(loaded, report.published)}", markup=False)
            is_model = report.stages[-1].artifact["kind"] in ("model", "adapter")
            if is_model and family_of(stages[-1].origin.root) == "causal":
                console.print(_what_next(report.artifact), markup=False)
    return report


def _decided(recipe: Recipe, folder: Path, until: str | None, fence: Fence) -> tuple[Recipe, set[str]]:
    """The recipe with the shares of replayed data that its budget leaves, and the fingerprints of what was trained to
    find them."""
    trained: set[str] = set()
    with quiet(folder / "logs" / "run.log") as console, mirrored(recipe, folder, plain(console)):

        def tried(trial: Recipe, waiting: Sequence[Planned]) -> None:
            train(waiting, prepare(trial, waiting, folder / "tokens")[0], STAGES, fence, folder, console)
            trained.update(stage.fingerprint for stage in waiting)

        return decided(recipe, folder, until, tried, plain(console)), trained


def _command(recipe: str | Path, folder: Path, overrides: Mapping[str, Any], until: str | None) -> str:
    """What one types for this run, from here."""
    words = ["fettle", "run", str(recipe), "--out", near(folder)]
    for key, value in overrides.items():
        words += ["--set", f"{key}={value if isinstance(value, str) else json.dumps(value)}"]
    return shlex.join([*words, *(["--until", until] if until is not None else [])])


def _published(recipe: Recipe, version: str) -> str:
    assert recipe.publish is not None
    name, alias = version.partition(":")[0], recipe.publish.alias
    at = f"--registry {near(recipe.resolve(recipe.publish.registry))}"
    told = f"{version} is {name}@{alias}"
    return told if alias == PRODUCTION else f"{told}; into production: fettle promote {name}@{alias} {at}"


def _what_next(artifact: Path) -> str:
    """How to use a language model's artifact."""
    found = why_not_applied(artifact) if (artifact / "adapter_config.json").is_file() else None
    if found is None:
        return f"serve it  fettle serve {near(artifact)}"
    what, instead = found
    return f"serve it  not as it is: vLLM does not apply {what}; {instead}"


@contextmanager
def nothing_left(folder: Path | None) -> Iterator[None]:
    """A mistake of the user's leaves nothing behind: the folder goes, if one is given."""
    try:
        yield
    except UserError:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def near(path: Path) -> str:
    """The path as one would type it from here."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _summary(stages: Sequence[Planned], waiting: Sequence[Planned]) -> str:
    done = len(stages) - len(waiting)
    return f"{len(stages)} stage{'s' if len(stages) != 1 else ''}" + (f", {done} already done" if done else "")


def check_free(folder: Path, recipe: Recipe) -> None:
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
def taken(folder: Path, recipe: Recipe) -> Iterator[Fence]:
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
