"""Ray Tune, told what a sweep's recipe says: the trials' settings, what ends them early, how many run at a time."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.schedulers import (
    AsyncHyperBandScheduler,
    FIFOScheduler,
    MedianStoppingRule,
    PopulationBasedTraining,
    TrialScheduler,
)
from ray.tune.search.optuna import OptunaSearch

from fettle.errors import DoesNotFit
from fettle.pipeline.planned import Planned
from fettle.recipe import Recipe
from fettle.recipe.rl import RlStage
from fettle.recipe.sweep import SweepSpec
from fettle.tune.ledger import Ledger
from fettle.tune.runner import Runner
from fettle.tune.space import Settings, as_domain, as_settings, drawn_from
from fettle.tune.study import Sweep, trial_id

_DIES = 2  # times that a trial's process may die before the trial has failed
_QUANTILE = 0.25
_METRIC, _TIME = "score", "round"
_OF_TUNE = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the ledger has what they would write
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
}
Takes = tuple[float, float]
"""CPUs and GPUs of a trial."""


def takes(stages: Sequence[Planned], spec: SweepSpec) -> Takes:
    """What the stages of a trial take at most, with the engines and reward models beside their workers."""
    found = [(0.0, 0.0)]
    for stage in stages:
        cluster, rl = stage.cluster, stage.spec if isinstance(stage.spec, RlStage) else None
        cpus = cluster.fewest * cluster.cpus_per_worker + (rl.cpus_beside(cluster) if rl else 0)
        gpus = cluster.fewest * (spec.gpus_per_trial or cluster.gpus_per_worker) + (
            rl.gpus_beside(cluster) if rl else 0
        )
        found.append((cpus, gpus))
    return max(cpus for cpus, _ in found), max(gpus for _, gpus in found)


def at_a_time(trial: Takes, there: Takes, recipe: Recipe) -> int:
    """How many trials the cluster has room for: Tune does not count the workers that a trial starts. Raises DoesNotFit
    where there is none for one."""
    assert recipe.sweep is not None
    fits = [int(most / one + 1e-9) for one, most in zip(trial, there, strict=True) if one]
    if min(fits) == 0:
        what = next(name for name, one, most in zip(("CPUs", "GPUs"), trial, there, strict=True) if one > most)
        raise DoesNotFit(
            f"a trial takes {trial[0]:g} CPUs and {trial[1]:g} GPUs, and the cluster has {there[0]:g} and {there[1]:g}",
            **recipe.where("cluster"),
            fix=f"fewer workers, or a cluster with more {what}",
        )
    return min([*fits, *([recipe.sweep.concurrent] if recipe.sweep.concurrent else [])])


def search(sweep: Sweep, settings: Sequence[Settings], trial: Takes, alone: bool, over: Path) -> None:
    """Runs the trials that are left, until all are over, or until the file `over` is there. settings: of all trials,
    where they are known beforehand. alone: whether a trial is one process. What became of them is in the ledger."""
    for key, value in _OF_TUNE.items():
        os.environ.setdefault(key, value)
    spec = sweep.recipe.sweep
    assert spec is not None
    random.seed(sweep.recipe.seed)  # from which Tune's PBT draws
    known = {row.id: row for row in Ledger(sweep.out).rows()}
    how: dict[str, Any] = {"metric": _METRIC, "mode": spec.metric.mode}
    if spec.search == "optuna":
        space, how = {}, {"search_alg": _optuna(sweep)}
        count = (spec.trials or 0) - sum(row.is_over for row in known.values())
    else:
        left = _left(sweep, settings, known)
        space, count = {"trial": tune.grid_search(left)}, 1 if left else 0
        how["scheduler"] = _scheduler(spec)
    if count <= 0:
        return
    resources: Any = {"CPU": trial[0], "GPU": trial[1]}
    if not alone:  # its workers are counted by us; Tune wants something to place
        resources = tune.PlacementGroupFactory([{"CPU": 0, "memory": 1}])
    runner = tune.with_resources(tune.with_parameters(Runner, sweep=sweep), resources)
    tuner = tune.Tuner(
        runner,
        param_space=space,
        tune_config=tune.TuneConfig(
            num_samples=count,
            # A population is begun as a whole, and paused in turns: trial.py counts how many of it work.
            max_concurrent_trials=None if spec.search == "pbt" else sweep.concurrent,
            reuse_actors=True,
            trial_dirname_creator=str,
            **how,
        ),
        run_config=tune.RunConfig(
            name=f"{sweep.fence.token}-sweep",
            storage_path=str(sweep.out / "ray"),
            verbose=0,
            stop=_Until(over),
            callbacks=[_Watch(sweep, over)],
            failure_config=tune.FailureConfig(max_failures=_DIES),
        ),
    )
    tuner.fit()


def _left(sweep: Sweep, settings: Sequence[Settings], known: dict[str, Any]) -> list[dict[str, Any]]:
    """What is drawn for each trial that the search is to see, those first that it has seen already."""
    spec = sweep.recipe.sweep
    assert spec is not None
    rows = []
    for number, one in enumerate(settings, start=1):
        member = f"member-{number:02d}" if spec.search == "pbt" else None
        row = known.get(trial_id(one, member))
        if row is not None and row.is_over and not spec.is_in_rounds:
            continue
        now = row.settings if row is not None else one  # a member's settings change on the way
        drawn = drawn_from(spec.space, now) | ({"member": member} if member else {})
        rows.append((0 if row is None else 2 if row.is_over else 1, drawn))
    if all(rank == 2 for rank, _ in rows):
        return []
    return [drawn for _, drawn in sorted(rows, key=lambda one: -one[0])]


def _scheduler(spec: SweepSpec) -> TrialScheduler:
    if spec.search == "asha":
        return AsyncHyperBandScheduler(
            time_attr=_TIME,
            max_t=spec.num_rounds,
            grace_period=spec.grace or 1,
            reduction_factor=spec.reduction or 3,
        )
    if spec.search == "median":
        return MedianStoppingRule(time_attr=_TIME, grace_period=spec.grace or 1)
    if spec.search != "pbt":
        return FIFOScheduler()
    space = spec.space

    def within(config: dict[str, Any]) -> dict[str, Any]:
        return config | {"trial": config["trial"] | drawn_from(space, as_settings(space, config["trial"]))}

    mutations = {
        key: list(range(len(one.choice))) if one.choice is not None else as_domain(one) for key, one in space.items()
    }
    return PopulationBasedTraining(
        time_attr=_TIME,
        perturbation_interval=1,
        hyperparam_mutations={"trial": mutations},
        quantile_fraction=_QUANTILE,
        custom_explore_fn=within,
        log_config=False,  # the ledger tells it
        # All wait for all: a trial that lies behind would be compared with others that have learned for longer.
        synch=True,
    )


def _optuna(sweep: Sweep) -> OptunaSearch:
    """The search, which knows the trials that are over, and begins with those that are not."""
    spec = sweep.recipe.sweep
    assert spec is not None
    domains = {"trial": {key: as_domain(one) for key, one in spec.space.items()}}
    found: list[dict[str, Any]] = []
    begun: list[dict[str, Any]] = []
    rows = Ledger(sweep.out).rows()
    for row in rows:
        drawn = {f"trial/{key}": value for key, value in drawn_from(spec.space, row.settings).items()}
        (found if row.is_over else begun).append(drawn)
    searcher = OptunaSearch(
        space=OptunaSearch.convert_search_space(domains),
        metric=_METRIC,
        mode=spec.metric.mode,
        seed=sweep.recipe.seed + len(found),  # else it would draw the first ones once more
        points_to_evaluate=begun or None,
    )
    for drawn, row in zip(found, [row for row in rows if row.is_over], strict=True):
        searcher.add_evaluated_point(drawn, row.score if row.score is not None else spec.metric.worst)
    return searcher


class _Until(tune.Stopper):
    """Ends all trials once the file is there; Tune pickles it, which an event of threads is not for."""

    def __init__(self, over: Path) -> None:
        self.over = over

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.over.exists()


class _Watch(tune.Callback):
    """Writes down which trials the search has ended, and whose process died."""

    def __init__(self, sweep: Sweep, over: Path) -> None:
        self.sweep, self.ledger, self.over = sweep, Ledger(sweep.out), over

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **more: Any) -> None:
        if not self.over.exists():
            self._end(trial, "stopped", "")

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **more: Any) -> None:
        lines = str((trial.error_file and trial.get_error()) or "its process died").strip().splitlines()
        self._end(trial, "failed", lines[-1][:300] if lines else "its process died")

    def _end(self, trial: Any, state: Any, error: str) -> None:
        drawn = self.sweep.own(trial.config["trial"], trial.trial_id)
        row = self.ledger.read(trial_id(*self.sweep.settings(drawn)))
        if row is not None and not row.is_over:
            self.ledger.write(replace(row, state=state, error=error, ended=time.time()))
