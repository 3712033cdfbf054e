"""A sweep: trials of a recipe with other values of some keys; what they came to, and the best of them as a recipe."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from fettle.cluster import ray_session
from fettle.errors import StageFailed
from fettle.needs.preflight import check_cpus, check_disk
from fettle.pipeline.autos import chosen_for
from fettle.pipeline.console import quiet
from fettle.pipeline.evaluation import check_evaluations
from fettle.pipeline.planned import Planned, PlannedLearning
from fettle.pipeline.prepare import prepare
from fettle.pipeline.runner import STAGES, check_free, near, nothing_left, taken
from fettle.pipeline.training import room, train
from fettle.recipe import Recipe, load_recipe
from fettle.recipe.load import varied
from fettle.signals import interruptible
from fettle.train.checkpoint import Fence
from fettle.tune.best import write_best
from fettle.tune.budget import Budget, end_all
from fettle.tune.checks import check_sweep, own_stages
from fettle.tune.ledger import Ledger, Row
from fettle.tune.page import write_results
from fettle.tune.results import Results, line, results_of, table
from fettle.tune.search import at_a_time, search, takes
from fettle.tune.study import Sweep, is_alone

_GOES_ON = "; the same command goes on from here"
_POLL_S = 0.5
_TOLD_EVERY_S = 5.0
_ENDS_S = 60.0


def sweep(
    recipe: str | Path,
    sweep: str | Path | None = None,
    out: str | Path | None = None,
    set: Mapping[str, Any] | None = None,
) -> Results:
    """Tries the settings that the recipe's `sweep` tells of, and returns what they came to; it also lies in `out`, as
    sweep.json, sweep.html and best.yaml, the best of them as a recipe.

    sweep: a file with the `sweep` in place of the recipe's own. out: by default runs/NAME-sweep. set: dotted key →
    value over the recipe's. Raises UserError or DoesNotFit (nothing started), StageFailed where no trial came to
    anything, or Interrupted on SIGINT and SIGTERM.
    """
    loaded = load_recipe(recipe, set, sweep)
    folder = Path(out).expanduser().resolve() if out is not None else Path("runs", f"{loaded.name}-sweep").resolve()
    is_new = not folder.exists()
    check_free(folder, loaded)
    with nothing_left(folder if is_new else None):
        chosen = chosen_for(varied(loaded, {}), folder)
        if chosen.choices:
            measured = {one.field: one.value for one in chosen.choices}
            loaded = load_recipe(recipe, {**(set or {}), **measured}, sweep)
        settings, trials = check_sweep(loaded, folder)
        _check_room(loaded, folder, trials)
    assert loaded.sweep is not None
    with interruptible(_GOES_ON), taken(folder, loaded) as fence:
        chosen.keep(folder)
        ledger = Ledger(folder)
        with nothing_left(folder if is_new else None):
            before = ledger.open(loaded)
            _prepared(loaded, trials[0], settings[0], folder)
        with quiet(folder / "logs" / "sweep.log") as console:
            own = own_stages(trials)
            for line_of in chosen.lines():
                console.print(line_of, markup=False)
            console.print(_headline(loaded, len(trials), own, ledger.rows(), folder), markup=False)
            with ray_session():
                _train_shared(loaded, settings[0], trials[0], own, folder, fence, console)
                one = takes(own, loaded.sweep)
                concurrent = at_a_time(one, room(), loaded)
                console.print(f"{concurrent} trial{'s' if concurrent > 1 else ''} at a time", markup=False)
                study = Sweep(loaded, folder, fence, STAGES, concurrent)
                known = [] if loaded.sweep.search == "optuna" else settings
                alone = all(is_alone(stage) for stage in own)
                over = folder / "ray" / f".over-{fence.token}"

                def work() -> None:
                    search(study, known, one, alone, over)

                seconds = _watched(work, loaded, ledger, before, over, console)
            results = results_of(loaded, folder, ledger.rows(), seconds)
            _close(folder, results.rows)
            console.print(table(results))
            if results.best is None:
                raise _none_came_to_anything(results)
            write_best(study, results)
            write_results(results)
            console.print(f"report    {near(folder / 'sweep.html')}", markup=False)
            command = f"fettle run {near(folder / 'best.yaml')} --out {near(folder)}"
            console.print(f"best      {near(folder / 'best.yaml')}; {command}", markup=False)
    return results


def _check_room(recipe: Recipe, folder: Path, trials: Sequence[Sequence[Planned]]) -> None:
    """Raises DoesNotFit or UserError for what a trial would find too late."""
    spec, own = recipe.sweep, own_stages(trials)
    assert spec is not None
    for stage in trials[0]:
        check_cpus(recipe, stage.spec, stage.cluster)
    count = spec.trials or len(trials)
    weights = []
    for stage in own:
        # What adapters and their checkpoints weigh, all of them together, is little beside their one base.
        is_large = not (isinstance(stage, PlannedLearning) and stage.adapter.is_beside)
        keep = stage.spec.num_checkpoints if isinstance(stage, PlannedLearning) else None
        weights += [(stage.origin.root, keep)] * (count if is_large else 1)
        # Trials side by side share a copy in the type that they train over, at most twice as wide as the base's own.
        weights += [(stage.origin.root, None)] * (0 if is_large else 2)
    check_disk(folder, weights)
    if spec.metric.evaluated is not None:
        number = spec.metric.evaluated[0]
        check_evaluations(recipe.model_copy(update={"evaluate": (recipe.evaluate[number],)}), trials[0])


def _prepared(recipe: Recipe, stages: Sequence[Planned], settings: Mapping[str, Any], folder: Path) -> None:
    """Reads and encodes the data of the first trial, which most others share: its mistakes are told before any worker
    starts."""
    waiting = [stage for stage in stages if not stage.is_done]
    if waiting:
        prepare(varied(recipe, settings), waiting, folder / "tokens")


def _headline(recipe: Recipe, trials: int, own: Sequence[Planned], rows: Sequence[Row], folder: Path) -> str:
    spec = recipe.sweep
    assert spec is not None
    names = ", ".join(stage.spec.name for stage in own)
    done = sum(row.is_over for row in rows)
    head = f"{recipe.name}: {spec.search}, {spec.trials or trials} trials of {names}"
    return head + (f", {done} over already" if done else "") + f"; log {near(folder / 'logs')}"


def _train_shared(
    recipe: Recipe,
    settings: Mapping[str, Any],
    stages: Sequence[Planned],
    own: Sequence[Planned],
    folder: Path,
    fence: Fence,
    console: Console,
) -> None:
    """The stages that are the same in all trials, once."""
    waiting = [stage for stage in stages if stage not in own and not stage.is_done]
    if waiting:
        names = ", ".join(stage.spec.name for stage in waiting)
        console.print(f"the same in all trials, and so trained once: {names}", markup=False)
        jobs, _ = prepare(varied(recipe, settings), waiting, folder / "tokens")
        train(waiting, jobs, STAGES, fence, folder, console)


def _watched(work: Any, recipe: Recipe, ledger: Ledger, before: float, over: Path, console: Console) -> float:
    """Does the work in a thread, tells what is over, and ends it where the budget does. Returns the seconds of
    the whole sweep."""
    spec, failure = recipe.sweep, list[BaseException]()
    assert spec is not None

    def guarded() -> None:
        try:
            work()
        except BaseException as error:
            failure.append(error)

    # In a thread, because only the main one can be interrupted while it waits, and it has the progress to tell.
    thread = threading.Thread(target=guarded, name="tune", daemon=True)
    began, seen = time.monotonic(), {row.id for row in ledger.rows() if row.is_over}
    thread.start()
    budget, told = Budget(spec.budget), before
    try:
        while thread.is_alive():
            thread.join(_POLL_S)
            rows = ledger.rows()
            for row in rows:
                if row.is_over and row.id not in seen:
                    seen.add(row.id)
                    console.print(line(row, len(seen), rows, spec), markup=False)
            spent = before + time.monotonic() - began
            if spent - told > _TOLD_EVERY_S or not thread.is_alive():
                ledger.spent(told := spent)
            if not over.exists() and (why := budget.reached(spent, rows)):
                console.print(f"budget    {why}: ends here; what is under way can be gone on with", markup=False)
                _touch(over)
            if over.exists():
                end_all(rows)
    except KeyboardInterrupt as stopped:
        if str(stopped) == "SIGTERM":  # a notice, with some time left; who presses Ctrl-C wants an end
            _touch(over)
            end_all(ledger.rows())
            thread.join(_ENDS_S)
        raise
    if failure and not over.exists():
        last = (str(failure[0]).strip() or repr(failure[0])).splitlines()[-1][:300]
        raise StageFailed(f"Ray Tune ended: {last}{_GOES_ON}") from failure[0]
    return before + time.monotonic() - began


def _touch(file: Path) -> None:
    file.parent.mkdir(exist_ok=True)
    file.touch()


def _close(folder: Path, rows: Sequence[Row]) -> None:
    """Removes what only going on would have needed: the checkpoints of trials that are over."""
    for row in (one for one in rows if one.is_over):
        for file in row.progress:
            shutil.rmtree(Path(file).parent / "held", ignore_errors=True)
            shutil.rmtree(Path(file).parent / "checkpoints", ignore_errors=True)
    shutil.rmtree(folder / "ray", ignore_errors=True)


def _none_came_to_anything(results: Results) -> StageFailed:
    errors = list(dict.fromkeys(row.error for row in results.rows if row.error))
    return StageFailed(
        "no trial came to a result" + (f": {errors[0]}" if errors else "; the budget ended before one did")
    )
