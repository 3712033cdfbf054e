"""A recipe's `evaluate`: a run's base against what became of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fettle.data.sources import OpenSource, open_source
from fettle.errors import UserError
from fettle.pipeline.answered import check_answered
from fettle.pipeline.answering import answers_compared, longest_prompt, questions
from fettle.pipeline.evaluated import Comparison, Measurement, check_speaks
from fettle.pipeline.few_shot import examples
from fettle.pipeline.harness import check_harness, tested
from fettle.pipeline.judged import check_judge, judged
from fettle.pipeline.origin import Origin
from fettle.pipeline.perplexity import base_of, kept_losses, measurement, probe, room_of
from fettle.pipeline.planned import Planned
from fettle.pipeline.retention import check_retention, retention
from fettle.pipeline.rewarded import reward_of, rewarded
from fettle.recipe import Recipe
from fettle.recipe.evaluate import GenerateSpec, LossSpec, RetentionSpec
from fettle.recipe.judged import AnsweredSpec, HarnessSpec, JudgeSpec, ScoredSpec
from fettle.recipe.kinds import YIELDS_MODEL

_OfRecords = GenerateSpec | LossSpec | RetentionSpec | AnsweredSpec


def check_evaluations(recipe: Recipe, stages: Sequence[Planned]) -> list[str]:
    """What to tell of what `evaluate` will need. Raises UserError, before anything is trained, for what it could not do
    after it."""
    notes: list[str] = []
    for number, spec in enumerate(recipe.evaluate):
        where = recipe.where(f"evaluate.{number}")
        if isinstance(spec, RetentionSpec):
            check_retention(stages, _opened(recipe, number, spec), spec, **where)
            continue
        last = stages[-1]
        if last.spec.kind not in YIELDS_MODEL:
            raise UserError(f"the last stage, {last.spec.name}, yields no language model that could answer", **where)
        check_speaks(Origin(last.origin.root, last.origin.root, ""), **where)
        if isinstance(spec, HarnessSpec):
            check_harness(recipe, number, stages)
            continue
        source = _opened(recipe, number, spec)
        if isinstance(spec, AnsweredSpec):
            check_answered(recipe, number, stages, source)
            notes += check_judge(recipe, number) if isinstance(spec, JudgeSpec) else []
            if isinstance(spec, ScoredSpec):
                reward_of(recipe, number, stages)
        elif isinstance(spec, LossSpec):
            probe(source, spec, last.origin.root, last.origin.chat_template, room_of(last.result()), **where)
        else:
            longest_prompt(last.origin.root, spec, **where)
            asked = questions(source, spec.limit, **where)
            examples(recipe, number, stages, [one.prompt for one in asked])
    return notes


def compare(recipe: Recipe, stages: Sequence[Planned], out: Path, say: Callable[[str], None]) -> tuple[Comparison, ...]:
    """One for each of the recipe's `evaluate`: what was worked out before is taken as it is. Below `out` lie the
    answers, and what every record lost."""
    found: list[Comparison] = []
    for number, spec in enumerate(recipe.evaluate):
        where = recipe.where(f"evaluate.{number}")
        if isinstance(spec, HarnessSpec):
            found.append(tested(recipe, number, stages, out, say))
            continue
        source = _opened(recipe, number, spec)
        if isinstance(spec, ScoredSpec):
            found.append(rewarded(recipe, number, stages, source, out, say))
        elif isinstance(spec, JudgeSpec):
            found.append(judged(recipe, number, stages, source, out, say))
        elif isinstance(spec, RetentionSpec):
            found.append(retention(stages, source, spec, out, say, recipe.seed, **where))
        elif isinstance(spec, LossSpec):
            found.append(_losses_compared(source, stages[-1], spec, out, say, recipe.seed, **where))
        else:
            asked = questions(source, spec.limit, **where)
            shown = examples(recipe, number, stages, [one.prompt for one in asked])
            found.append(answers_compared(asked, shown, stages[-1], spec, out, say, recipe.seed))
    return tuple(found)


def _losses_compared(
    source: OpenSource, stage: Planned, spec: LossSpec, out: Path, say: Callable[[str], None], seed: int, **where: Any
) -> Comparison:
    last = stage.result()
    asked = probe(source, spec, last.root, last.chat_template, room_of(last), **where)

    def told(name: str, origin: Origin) -> Measurement:
        return measurement(kept_losses(out / "evaluations", origin, asked, name, say), asked, name, seed)

    return Comparison(told("base", base_of(last)), told(stage.spec.name, last))


def _opened(recipe: Recipe, number: int, spec: _OfRecords) -> OpenSource:
    return open_source(spec.data, recipe.resolve, **recipe.where(f"evaluate.{number}.data"))
