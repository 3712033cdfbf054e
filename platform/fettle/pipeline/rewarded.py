"""Answers that a reward model scores: those of a run's result beside another model's, prompt by prompt."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fettle.artifact import library_versions, replace_text
from fettle.data.record import Record
from fettle.data.sources import OpenSource
from fettle.pipeline.answered import Answered, kept_answers, opponents
from fettle.pipeline.evaluated import Evaluation, Preferred
from fettle.pipeline.planned import Planned, hash_of
from fettle.pipeline.reinforcing import reward_model
from fettle.pipeline.unanswered import records_of
from fettle.recipe import Recipe
from fettle.recipe.judged import AnsweredSpec, ScoredSpec

if TYPE_CHECKING:
    from fettle.evaluate.intervals import Score

INTERVAL = "95 %, percentile bootstrap over the prompts"


def reward_of(recipe: Recipe, number: int, stages: Sequence[Planned]) -> tuple[Path, str]:
    """(folder, identity) of the reward model of the recipe's `evaluate.number`. Raises UserError where it is none."""
    spec = recipe.evaluate[number]
    assert isinstance(spec, ScoredSpec)
    by_name = {stage.spec.name: stage for stage in stages}
    return reward_model(recipe, spec.model, f"evaluate.{number}.model", by_name)


def rewarded(
    recipe: Recipe, number: int, stages: Sequence[Planned], source: OpenSource, out: Path, say: Callable[[str], None]
) -> Preferred:
    """The mean score of the result's answers and of the other model's, and on which share of the prompts the result's
    is above the other's (ties count half). What was worked out before is taken as it is, of what lies below `out`."""
    from fettle.evaluate.intervals import with_interval

    spec = recipe.evaluate[number]
    assert isinstance(spec, ScoredSpec)
    model, folder = reward_of(recipe, number, stages), out / "evaluations"
    asked = records_of(source, spec.limit, **recipe.where(f"evaluate.{number}"))
    sides = [kept_answers(folder, one, asked, spec, recipe.seed, say) for one in opponents(recipe, number, stages)]
    other, own = (_kept_scores(folder, model, asked, side, say) for side in sides)
    # The same answer is a tie, though its score depends, in its last digits, on what is scored beside it.
    same = [mine == theirs for theirs, mine in zip(*(side.texts for side in sides), strict=True)]
    won = [0.5 if tied else float(mine > theirs) for mine, theirs, tied in zip(own, other, same, strict=True)]
    before, after = ({"score": with_interval(values, recipe.seed)} for values in (other, own))
    after["win_rate"] = with_interval(won, recipe.seed)
    return Preferred(
        told_of(sides[0], spec, before, "reward"),
        told_of(sides[1], spec, after, "reward"),
        by=spec.model,
        counts={"won": won.count(1), "tied": won.count(0.5), "lost": won.count(0)},
    )


def told_of(side: Answered, spec: AnsweredSpec, scores: dict[str, Score], kind: str) -> Evaluation:
    """What a model's answers are worth, as the report has it."""
    return Evaluation(
        model=side.model,
        data=spec.data.path,
        records=len(side.texts),
        prompts_cut=side.prompts_cut,
        answers_unended=side.answers_unended,
        max_new_tokens=spec.max_new_tokens,
        seconds=side.seconds,
        scores={name: asdict(score) for name, score in scores.items()},
        how={"decoding": f"temperature {spec.temperature:g}" if spec.temperature else "greedy", "interval": INTERVAL},
        kind=kind,
        file=side.file,
    )


def _kept_scores(
    folder: Path, model: tuple[Path, str], asked: Sequence[Record], side: Answered, say: Callable[[str], None]
) -> list[float]:
    """The score of each of a model's answers; below `folder` they lie, a JSON line each."""
    at, identity = model
    answers: list[Any] = [[repr((one.prompt, one.tools)), text] for one, text in zip(asked, side.texts, strict=True)]
    key = hash_of({"kind": "scores", "model": identity, "answers": answers, "versions": library_versions()})[:12]
    for file in folder.glob(f"*-scores-{key}.jsonl"):
        return [json.loads(line)["score"] for line in file.read_text(encoding="utf-8").splitlines()]
    say(f"scoring {side.model}: {len(asked):,} answers")
    scores = _scores(at, asked, side.texts)
    rows = [
        {"file": str(one.file), "line": one.line, "answer": text, "score": score}
        for one, text, score in zip(asked, side.texts, scores, strict=True)
    ]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    replace_text(folder / f"{side.model}-scores-{key}.jsonl".replace("/", "-"), lines)
    return scores


def _scores(folder: Path, asked: Sequence[Record], answers: Sequence[str]) -> list[float]:
    # Here, because the driver of a run that is not evaluated needs none of them.
    import torch

    from fettle.rl.rewards.model import RewardModel

    return RewardModel(folder, device="cuda" if torch.cuda.is_available() else "cpu").scores(asked, answers)
