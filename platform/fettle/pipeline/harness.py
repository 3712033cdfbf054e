"""Tasks of lm-evaluation-harness, to which a run's base and its result are put on a vLLM engine."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from fettle.artifact import digest_file, library_versions, replace_text
from fettle.errors import UserError, did_you_mean
from fettle.evaluate.harness import Model, Put, Result, Told, put
from fettle.evaluate.harness_files import TaskFiles, task_files
from fettle.models.family import family_of
from fettle.pipeline.answered import Named
from fettle.pipeline.evaluated import Comparison, TaskScores
from fettle.pipeline.origin import Origin
from fettle.pipeline.perplexity import base_of
from fettle.pipeline.planned import Planned, hash_of
from fettle.recipe import Recipe
from fettle.recipe.judged import HarnessSpec
from fettle.serving.weights import check_adapter, check_model


def check_harness(recipe: Recipe, number: int, stages: Sequence[Planned]) -> None:
    """Raises UserError where the tasks of the recipe's `evaluate.number` cannot be read or run code, a bound is on what
    none of them measures, or vLLM would not take the result."""
    spec, where = recipe.evaluate[number], recipe.where(f"evaluate.{number}")
    assert isinstance(spec, HarnessSpec)
    result = stages[-1].result()
    if family_of(result.root) != "causal":
        raise UserError(f"{result.root.name} is not causal, and vLLM has no other text models", **where)
    if result.adapter_spec is not None and result.adapter_spec.kind != "lora":
        raise UserError(
            f"the last stage yields an adapter of kind {result.adapter_spec.kind}, which vLLM does not apply",
            **where,
            fix="add a last stage {name: merged, kind: merge}",
        )
    check_model(result.root)
    check_scores(spec, put(_asked(recipe, spec, _files(recipe, number, spec))), **where)


def check_scores(spec: HarnessSpec, told: Told, **where: Any) -> None:
    """Raises UserError for a bound on what the tasks do not measure, or from the wrong side."""
    for score in spec.bounded:
        if score not in told.names:
            raise UserError(
                f"no score '{score}' is measured by these tasks{did_you_mean(score, told.names)}",
                **where,
                expected=", ".join(told.names),
            )
    for score in spec.at_least:
        if score in told.falling:
            raise UserError(f"at_least bounds {score}, of which less is better", **where, fix="at_most")


def tested(recipe: Recipe, number: int, stages: Sequence[Planned], out: Path, say: Callable[[str], None]) -> Comparison:
    """What the base and the run's result come to in the tasks of the recipe's `evaluate.number`. What was worked out
    before is taken as it is, of what lies below `out`."""
    spec = recipe.evaluate[number]
    assert isinstance(spec, HarnessSpec)
    files, result = _files(recipe, number, spec), stages[-1].result()
    sides = [Named("base", base_of(result)), Named(stages[-1].spec.name, result)]
    folder, keys = out / "evaluations", [_key(recipe, spec, files, one) for one in sides]

    def kept(key: str) -> Path | None:
        return next(folder.glob(f"*-harness-{key}.json"), None)

    # Once, where both are the same model.
    if left := {key: one for key, one in reversed(list(zip(keys, sides, strict=True))) if kept(key) is None}:
        say(f"putting {' and '.join(one.name for one in left.values())} to {_called(spec)}")
        told = put(_asked(recipe, spec, files, list(left.values())), out / "logs" / "harness.log")
        folder.mkdir(exist_ok=True)
        for (key, one), found in zip(left.items(), told.results, strict=True):
            file = folder / f"{one.name}-harness-{key}.json"
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found.rows)
            replace_text(file.with_suffix(".jsonl"), lines)
            replace_text(file, json.dumps(asdict(_tested(one, spec, told, found)), indent=2) + "\n")
    return Comparison(*(_read(kept(key), one.name) for key, one in zip(keys, sides, strict=True)))


def _tested(one: Named, spec: HarnessSpec, told: Told, found: Result) -> TaskScores:
    return TaskScores(
        model=one.name,
        data=_called(spec),
        records=told.records,
        requests_cut=found.requests_cut,
        seconds=found.seconds,
        scores=found.scores,
        falling=told.falling,
        how={
            "harness": f"lm-evaluation-harness {metadata.version('lm_eval')}",
            "interval": "95 %, percentile bootstrap over the documents",
            **({"cut": f"the beginning of {found.requests_cut:,} requests"} if found.requests_cut else {}),
        },
    )


def _read(file: Path | None, name: str) -> TaskScores:
    assert file is not None
    kept = json.loads(file.read_text(encoding="utf-8"))
    return TaskScores(**kept | {"model": name, "falling": tuple(kept["falling"])})


def _called(spec: HarnessSpec) -> str:
    return ", ".join(Path(task).name for task in spec.tasks)


def _key(recipe: Recipe, spec: HarnessSpec, files: TaskFiles, one: Named) -> str:
    told = {
        "kind": "harness",
        "model": [one.origin.identity, one.origin.chat_template if spec.chat else None],
        "files": [[file.name, digest_file(file)] for file in (*files.tasks, *files.read, *files.data)],
        "spec": [spec.fewshot, spec.limit, spec.chat, recipe.seed],
        "versions": library_versions() | {"lm_eval": metadata.version("lm_eval")},
    }
    return hash_of(told)[:12]


def _asked(recipe: Recipe, spec: HarnessSpec, files: TaskFiles, models: Sequence[Named] = ()) -> Put:
    return Put(
        files.tasks,
        fewshot=spec.fewshot,
        limit=spec.limit,
        chat=spec.chat,
        allow_code=spec.allow_code,
        seed=recipe.seed,
        models=tuple(_model(one.origin, spec) for one in models),
    )


def _model(origin: Origin, spec: HarnessSpec) -> Model:
    template = origin.chat_template if spec.chat else None
    if origin.adapter is None:
        return Model(origin.base, chat_template=template)
    return Model(origin.base, origin.adapter, check_adapter(origin.adapter, check_model(origin.base)), template)


def _files(recipe: Recipe, number: int, spec: HarnessSpec) -> TaskFiles:
    paths = [recipe.resolve(task) for task in spec.tasks]
    return task_files(paths, allow_code=spec.allow_code, **recipe.where(f"evaluate.{number}.tasks"))
