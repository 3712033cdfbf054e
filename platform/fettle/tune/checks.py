"""What can be known to fail before any trial starts: keys, their values, the metric, and what does not go together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from fettle.errors import UserError, did_you_mean
from fettle.pipeline.graph import plan_stages
from fettle.pipeline.planned import Planned
from fettle.pipeline.replaying import undecided
from fettle.recipe import Recipe
from fettle.recipe.evaluate import SCORES, GenerateSpec, LossName, LossSpec, RetentionSpec
from fettle.recipe.load import varied
from fettle.recipe.rl import RlStage
from fettle.recipe.stages import TrainingStage
from fettle.recipe.sweep import SweepSpec
from fettle.tune.space import Settings, plain, settings_of
from fettle.tune.study import is_alone, measure_of, metric_stage

_LOSSES = ("first", "last", "heldout_before", "heldout_after")
_ON_THE_WAY = (
    *("lr", "optimizer.beta1", "optimizer.beta2", "optimizer.momentum", "optimizer.smoothing", "optimizer.eps"),
    *("optimizer.weight_decay", "optimizer.max_grad_norm", "schedule.floor", "adapter.dropout", "adapter.alpha"),
    *("adapter.lr_ratio", "beta", "label_smoothing", "target_margin", "desirable_weight", "undesirable_weight"),
    *("neftune", "kl_to_base", "centre"),
)
"""What may change in the middle of a stage: neither the weights' shapes nor the order of its data depend on it."""


def check_sweep(recipe: Recipe, out: Path) -> tuple[list[Settings], list[list[Planned]]]:
    """(the settings of all trials where they are known beforehand, else those at the ends of each key's values; the
    stages of each). Raises UserError, or what planning a trial raises, naming the key and the value."""
    spec = recipe.sweep
    if spec is None:
        raise UserError(
            "there is no `sweep` to tell what is searched",
            file=recipe.file,
            fix="add sweep: {search: random, trials: 8, space: {stages.NAME.lr: {loguniform: [1e-5, 1e-3]}}}, or name"
            " a file that holds one",
        )
    _check_metric(recipe, spec)
    if recipe.storage is not None:
        raise UserError(
            "a sweep is not sent to storage",
            **recipe.where("storage"),
            fix="--set storage=off; its --out may lie there",
        )
    if waiting := undecided(recipe):
        where = recipe.where(f"stages.{waiting[0]}.replay.fraction")
        raise UserError(
            "a sweep's stages replay a share that is known", **where, fix="fraction: 0.1, or a key of space"
        )
    ends = _ends(recipe, spec)
    _check_effect(recipe, spec, out, ends)
    tried = settings_of(recipe, spec) if spec.search != "optuna" else ends
    planned = [plan_stages(_varied(recipe, one), out, metric_stage(recipe)) for one in tried]
    if len(tried) == 1:
        where = recipe.where("sweep.space")
        raise UserError("the space has one setting: there is nothing to compare", **where, expected="two at least")
    own = own_stages(planned)
    if spec.is_in_rounds:
        _check_rounds(recipe, spec, own)
    _check_gpus(recipe, spec, own)
    return tried, planned


def own_stages(trials: Sequence[Sequence[Planned]]) -> list[Planned]:
    """Of the first trial, the stages that are not the same in all: these each trial trains itself."""
    same = set.intersection(*({stage.fingerprint for stage in stages} for stages in trials))
    return [stage for stage in trials[0] if stage.fingerprint not in same]


def _check_metric(recipe: Recipe, spec: SweepSpec) -> None:
    names = [stage.name for stage in recipe.stages]
    metric, last = spec.metric, metric_stage(recipe)
    if last not in names:
        raise UserError(
            f"no stage '{last}'{did_you_mean(last, names)}",
            **recipe.where("sweep.metric.stage"),
            expected=", ".join(names),
        )
    where = recipe.where("sweep.metric.name")
    if metric.evaluated is not None:
        _check_evaluated(recipe, spec, *metric.evaluated)
        return
    stage = recipe.stages[names.index(last)]
    parts = tuple(metric.name.split("."))
    known = [f"reward.{one}" for one in _LOSSES] if isinstance(stage, RlStage) else []
    known += [f"loss.{one}" for one in _LOSSES]
    is_measure = len(parts) == 3 and parts[0] == "measures" and parts[2] in ("before", "after")
    if metric.name not in (*known, "kl", "seconds") and not is_measure:
        raise UserError(
            f"the report has no '{metric.name}'{did_you_mean(metric.name, known)}",
            **where,
            expected=f"{', '.join(known)}, measures.NAME.after, or evaluate.N.SCORE",
        )
    if not isinstance(stage, (TrainingStage, RlStage)):
        raise UserError(
            f"a stage of kind {stage.kind} trains nothing, and has no {metric.name}",
            **where,
            fix="a score of the result: evaluate.N.SCORE, or metric.stage: another stage",
        )


def _check_evaluated(recipe: Recipe, spec: SweepSpec, number: int, score: str) -> None:
    where: dict[str, Any] = recipe.where("sweep.metric.name")
    if number >= len(recipe.evaluate):
        raise UserError(f"the recipe's evaluate has {len(recipe.evaluate)} entries, from 0", **where)
    if metric_stage(recipe) != recipe.stages[-1].name:
        raise UserError(
            f"evaluate is of the last stage, {recipe.stages[-1].name}",
            **recipe.where("sweep.metric.stage"),
            fix=f"stage: {recipe.stages[-1].name}",
        )
    if spec.is_in_rounds:
        raise UserError(
            f"{spec.search} compares trials on the way, by what the stage measures of its held-out records; evaluate is"
            " of a finished model",
            **where,
            fix="name: loss.heldout_after, or search: optuna, random or grid",
        )
    one = recipe.evaluate[number]
    known: tuple[str, ...] = ()
    if isinstance(one, GenerateSpec):
        known = tuple(name for metric in one.metrics for name in SCORES[metric])
    elif isinstance(one, LossSpec):
        known = get_args(LossName)
    elif isinstance(one, RetentionSpec):
        known = (*get_args(LossName), "forgetting")
    if known and score not in known:
        told = ", ".join(f"evaluate.{number}.{name}" for name in known)
        raise UserError(f"evaluate.{number} has no score '{score}'{did_you_mean(score, known)}", **where, expected=told)


def _ends(recipe: Recipe, spec: SweepSpec) -> list[Settings]:
    """Each key at each end of its values, all others at their first; every one of them is a recipe."""
    first = {key: plain(one.ends[0]) for key, one in spec.space.items()}
    found = []
    for key, one in spec.space.items():
        for value in one.ends:
            _varied(recipe, {key: plain(value)}, key)
            found.append(first | {key: plain(value)})
    return found


def _varied(recipe: Recipe, settings: Settings, key: str | None = None) -> Recipe:
    """The recipe with these settings; its mistake is told of the space. key: the one that is looked at."""
    try:
        return varied(recipe, settings)
    except UserError as error:
        told = ", ".join(f"{name}: {value}" for name, value in settings.items())
        where = recipe.where(f"sweep.space.{key}" if key is not None else "sweep.space")
        got = error.got.removeprefix(f"--set {key}: ").replace(" (with --set)", "")
        at = f" ({error.field})" if error.field not in (None, key) else ""
        raise UserError(
            f"with {told} this is no recipe: {got}{at}", **where, expected=error.expected, fix=error.fix
        ) from None


def _check_effect(recipe: Recipe, spec: SweepSpec, out: Path, ends: Sequence[Settings]) -> None:
    """Raises UserError where all values of a key come to the very same stages."""
    last, place = metric_stage(recipe), 0
    for key, one in spec.space.items():
        trials = [plan_stages(varied(recipe, settings), out, last) for settings in ends[place : place + len(one.ends)]]
        place += len(one.ends)
        if len(trials) > 1 and not own_stages(trials):
            raise UserError(
                f"{key} changes nothing in what the stages up to {last} compute",
                **recipe.where(f"sweep.space.{key}"),
                fix="remove it, or name a later stage in metric.stage",
            )


def _check_rounds(recipe: Recipe, spec: SweepSpec, own: Sequence[Planned]) -> None:
    where: dict[str, Any] = recipe.where("sweep.search")
    last = metric_stage(recipe)
    instead = "search: random, optuna or grid, which train each trial to its end"
    stage = next(one for one in recipe.stages if one.name == last)
    if not isinstance(stage, TrainingStage):
        raise UserError(
            f"a stage of kind {stage.kind} is not trained in rounds, which {spec.search} compares", **where, fix=instead
        )
    if others := [one.spec.name for one in own if one.spec.name != last]:
        raise UserError(
            f"{spec.search} compares rounds of {last}, and the space changes {others[0]} too", **where, fix=instead
        )
    name = spec.metric.name
    if name != "loss.heldout_after" and not (name.startswith("measures.") and name.endswith(".after")):
        raise UserError(
            f"{name} is not known after a round, which {spec.search} compares by",
            **recipe.where("sweep.metric.name"),
            expected=f"loss.heldout_after, or measures.NAME.after ({measure_of('measures.accuracy.after')}, …)",
            fix=instead,
        )
    if stage.max_steps is not None and stage.max_steps < spec.num_rounds:
        raise UserError(
            f"{last} has {stage.max_steps} steps, fewer than {spec.num_rounds} rounds",
            **recipe.where("sweep.rounds"),
            fix=f"rounds: {stage.max_steps}, or more max_steps",
        )
    if stage.early_stop is not None:
        raise UserError(
            f"early_stop and {spec.search} both end a stage",
            **recipe.where(f"stages.{last}.early_stop"),
            fix=f"remove it, or {instead}",
        )
    if spec.search != "pbt":
        return
    for key in spec.space:
        short = key.removeprefix(f"stages.{last}.")
        if short not in _ON_THE_WAY:
            raise UserError(
                f"pbt changes settings in the middle of the stage, which {key} cannot",
                **recipe.where(f"sweep.space.{key}"),
                expected=", ".join(_ON_THE_WAY),
                fix="leave it out, or search: asha",
            )


def _check_gpus(recipe: Recipe, spec: SweepSpec, own: Sequence[Planned]) -> None:
    if spec.gpus_per_trial is None:
        return
    if any(not is_alone(stage) or not stage.cluster.gpus_per_worker for stage in own):
        raise UserError(
            "a share of a GPU is of trials of one worker that has one",
            **recipe.where("sweep.gpus_per_trial"),
            expected="cluster: {workers: 1, zero: 0, gpus_per_worker: 1}, and no stage of kind rl",
            fix="remove it",
        )
