"""Answers that a language model compares, in both orders: those of a run's result with another model's."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fettle.artifact import replace_text
from fettle.data.record import Record
from fettle.data.sources import OpenSource
from fettle.errors import FettleError, UserError
from fettle.pipeline.answered import Answered, kept_answers, opponents
from fettle.pipeline.evaluated import Preferred
from fettle.pipeline.planned import Planned, hash_of
from fettle.pipeline.rewarded import told_of
from fettle.pipeline.unanswered import records_of
from fettle.recipe import Recipe
from fettle.recipe.judged import JudgeSpec

if TYPE_CHECKING:
    from fettle.evaluate.endpoint import Endpoint
    from fettle.evaluate.judging import Outcome


def check_judge(recipe: Recipe, number: int) -> list[str]:
    """What to tell of the judge of the recipe's `evaluate.number`: that it is not there, which it has to be once the
    stages are trained. Raises UserError where its key is in no environment variable."""
    from fettle.evaluate.endpoint import why_away

    spec = recipe.evaluate[number]
    assert isinstance(spec, JudgeSpec)
    why = why_away(endpoint_of(recipe, number))
    if why is None:
        return []
    return [f"evaluate.{number}: the judge {spec.url} does not answer now ({why}); it is asked once all is trained"]


def endpoint_of(recipe: Recipe, number: int) -> Endpoint:
    """The judge's endpoint, with its key."""
    from fettle.evaluate.endpoint import Endpoint

    spec, key = recipe.evaluate[number], None
    assert isinstance(spec, JudgeSpec)
    if spec.key_env is not None and not (key := os.environ.get(spec.key_env)):
        raise UserError(
            f"the environment variable {spec.key_env} is not set, and {spec.url} is to get its value as a key",
            **recipe.where(f"evaluate.{number}.key_env"),
            fix=f"export {spec.key_env}=…",
        )
    return Endpoint(
        spec.url,
        spec.model,
        key=key,
        parameters=spec.parameters,
        concurrency=spec.concurrency,
        timeout_s=spec.timeout_s,
        tries=spec.tries,
    )


def judged(
    recipe: Recipe, number: int, stages: Sequence[Planned], source: OpenSource, out: Path, say: Callable[[str], None]
) -> Preferred:
    """On which share of the prompts a judge finds the result's answer the better one (ties count half; pairs without a
    verdict are left out). What it has said before, of what lies below `out`, it is not asked again."""
    from fettle.evaluate.intervals import with_interval
    from fettle.evaluate.judging import WORTH

    spec, folder = recipe.evaluate[number], out / "evaluations"
    assert isinstance(spec, JudgeSpec)
    asked = records_of(source, spec.limit, **recipe.where(f"evaluate.{number}"))
    other, own = (kept_answers(folder, one, asked, spec, recipe.seed, say) for one in opponents(recipe, number, stages))
    found = compared(endpoint_of(recipe, number), asked, own, other, spec.criteria, folder, say)
    worth = [value for one in found if (value := WORTH[one]) is not None]
    if not worth:
        raise FettleError(
            f"the judge {spec.model} gave no verdict on any of {len(found):,} pairs; what it said is in {folder}"
        )
    same = sum(mine == theirs for mine, theirs in zip(own.texts, other.texts, strict=True))
    counts = {name: found.count(name) for name in ("won", "lost", "inconsistent", "unparsed")}
    return Preferred(
        told_of(other, spec, {}, "judge"),
        told_of(own, spec, {"win_rate": with_interval(worth, recipe.seed)}, "judge"),
        by=spec.model,
        counts={"won": counts.pop("won"), "tied": worth.count(0.5), "lost": counts.pop("lost"), "same": same, **counts},
    )


def compared(
    endpoint: Endpoint,
    asked: Sequence[Record],
    own: Answered,
    other: Answered,
    criteria: str,
    folder: Path,
    say: Callable[[str], None],
) -> list[Outcome]:
    """How it went for each of `own` answers. Those that are the very same are a tie, and no question to anyone."""
    from fettle.evaluate.endpoint import answers
    from fettle.evaluate.judging import outcome, question, verdict

    pairs = list(zip(asked, own.texts, other.texts, strict=True))
    differing = [place for place, (_, mine, theirs) in enumerate(pairs) if mine != theirs]
    questions = []
    for request, mine, theirs in (pairs[place] for place in differing):
        orders = ((mine, theirs), (theirs, mine))
        questions += [question(request_of(request), *order, criteria) for order in orders]
    said = answers(endpoint, questions, folder / "judge.jsonl", say)
    found: list[Outcome] = ["tied"] * len(pairs)
    rows = []
    for place, first, second in zip(differing, said[::2], said[1::2], strict=True):
        found[place] = outcome(verdict(first), verdict(second))
        request, mine, theirs = pairs[place]
        row = {"file": str(request.file), "line": request.line, "answer": mine, "other": theirs}
        rows.append(row | {"outcome": found[place], "as_a": first, "as_b": second})
    key = hash_of([endpoint.url, endpoint.model, [row["outcome"] for row in rows], own.texts, other.texts])[:12]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    replace_text(folder / f"{own.model}-judged-{key}.jsonl", lines)
    return found


def request_of(record: Record) -> str:
    """What a prompt asks, as text: of a conversation every turn with who says it."""
    turns = record.conversation
    if len(turns) == 1:
        return turns[0].content
    return "\n\n".join(f"{turn.role}: {turn.content}" for turn in turns)
