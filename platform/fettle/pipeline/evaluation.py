"""A recipe's `evaluate`: a run's base against what became of it; and a model's answers to held-out prompts, judged."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from fettle.artifact import library_versions, replace_text
from fettle.data.asked import as_prompt
from fettle.data.coder import Coder, end_ids
from fettle.data.record import Record
from fettle.data.sources import OpenSource, open_source, read_source
from fettle.errors import UserError
from fettle.models.base import load_tokenizer, positions_of
from fettle.models.family import family_of
from fettle.pipeline.evaluated import LONGEST, Comparison, Evaluation, Measurement, check_speaks
from fettle.pipeline.origin import Origin
from fettle.pipeline.perplexity import base_of, kept_losses, measurement, probe, room_of
from fettle.pipeline.planned import Planned, hash_of
from fettle.pipeline.retention import check_retention, retention
from fettle.recipe import Recipe
from fettle.recipe.evaluate import GenerateSpec, LossSpec, RetentionSpec
from fettle.recipe.kinds import YIELDS_MODEL

_JUDGED = ("messages", "prompt_completion")


@dataclass(frozen=True)
class Question:
    """A record to be answered: the prompt, and the answers that are right."""

    prompt: Record
    wanted: tuple[str, ...]


def questions(source: OpenSource, limit: int | None, **where: Any) -> list[Question]:
    """Every record of a source, up to `limit`. Raises UserError at the first that has no answer to compare with.

    where: file, line, field (of a recipe) of the error where there is no record.
    """
    found: list[Question] = []
    for record in read_source(source):
        if len(found) == limit:
            break
        if record.kind not in _JUDGED:
            raise UserError(
                f"a record of kind {record.kind} has no answer to compare with",
                file=record.file,
                line=record.line,
                expected="a question with its answer: prompt and completion, or messages",
            )
        found.append(Question(as_prompt(record), _wanted(record)))
    if not found:
        raise UserError("there is no record to answer", **where)
    return found


def evaluate(
    origin: Origin, asked: Sequence[Question], spec: GenerateSpec, *, name: str, seed: int = 0, **where: Any
) -> tuple[Evaluation, list[dict[str, Any]]]:
    """(what the model's answers are worth, each prompt's place, answer and right answers).

    Prompts are rendered as in training. Raises UserError where the model writes no text, or has no room for it.
    """
    # Here, because the driver of a run that is not evaluated needs none of them.
    from fettle.evaluate.generate import answers, cut_prompt
    from fettle.evaluate.metrics import scored
    from fettle.models.generate import load_speaker

    check_speaks(origin, **where)
    longest = longest_prompt(origin.root, spec, **where)
    began = time.monotonic()
    is_seq2seq = family_of(origin.root) == "seq2seq"
    tokenizer = load_tokenizer(origin.root, origin.chat_template)
    coded = [ids for ids, _ in Coder(tokenizer, is_halved=is_seq2seq).code([one.prompt for one in asked])]
    prompts = [cut_prompt(ids, longest, is_seq2seq=is_seq2seq) for ids in coded]
    model = load_speaker(origin.base, origin.adapter)
    keys: dict[str, Any] = {"end_ids": end_ids(tokenizer), "max_new_tokens": spec.max_new_tokens}
    said = dict(answers(model, tokenizer, prompts, **keys))
    texts = [said[place].text for place in range(len(asked))]
    scores = scored(texts, [one.wanted for one in asked], spec.metrics, seed)
    told = Evaluation(
        model=name,
        data=spec.data.path,
        records=len(asked),
        prompts_cut=sum(len(ids) > longest for ids in coded),
        answers_unended=sum(not one.is_ended for one in said.values()),
        max_new_tokens=spec.max_new_tokens,
        seconds=round(time.monotonic() - began, 1),
        scores={key: asdict(score) for key, score in scores.items()},
        how={
            "decoding": "greedy",
            "rouge": f"F-measure, Porter stemming on, rouge-score {metadata.version('rouge-score')}",
            "interval": "95 %, percentile bootstrap over the records",
        },
    )
    rows = [
        {"file": str(one.prompt.file), "line": one.prompt.line, "answer": text, "wanted": list(one.wanted)}
        for one, text in zip(asked, texts, strict=True)
    ]
    return told, rows


def check_evaluations(recipe: Recipe, stages: Sequence[Planned]) -> None:
    """Raises UserError, before anything is trained, for what `evaluate` could not do after it."""
    for number, spec in enumerate(recipe.evaluate):
        where, source = recipe.where(f"evaluate.{number}"), _opened(recipe, number)
        if isinstance(spec, RetentionSpec):
            check_retention(stages, source, spec, **where)
            continue
        last = stages[-1]
        if last.spec.kind not in YIELDS_MODEL:
            raise UserError(f"the last stage, {last.spec.name}, yields no language model that could answer", **where)
        check_speaks(Origin(last.origin.root, last.origin.root, ""), **where)
        if isinstance(spec, LossSpec):
            probe(source, spec, last.origin.root, last.origin.chat_template, room_of(last.result()), **where)
        else:
            longest_prompt(last.origin.root, spec, **where)
            questions(source, spec.limit, **where)


def compare(recipe: Recipe, stages: Sequence[Planned], out: Path, say: Callable[[str], None]) -> tuple[Comparison, ...]:
    """One for each of the recipe's `evaluate`: what was worked out before is taken as it is. Below `out` lie the
    answers, and what every record lost."""
    found: list[Comparison] = []
    for number, spec in enumerate(recipe.evaluate):
        where, source = recipe.where(f"evaluate.{number}"), _opened(recipe, number)
        if isinstance(spec, RetentionSpec):
            found.append(retention(stages, source, spec, out, say, recipe.seed, **where))
        elif isinstance(spec, LossSpec):
            found.append(_losses_compared(source, stages[-1], spec, out, say, recipe.seed, **where))
        else:
            found.append(_answers_compared(source, stages[-1], spec, out, say, recipe.seed, **where))
    return tuple(found)


def _answers_compared(
    source: OpenSource,
    stage: Planned,
    spec: GenerateSpec,
    out: Path,
    say: Callable[[str], None],
    seed: int,
    **where: Any,
) -> Comparison:
    asked = questions(source, spec.limit, **where)
    last = stage.result()
    base = Origin(last.root, last.root, str(last.root), chat_template=last.chat_template)
    pair = []
    for name, origin in (("base", base), (stage.spec.name, last)):
        say(f"evaluating {name} on {spec.data.path}: {len(asked):,} prompts")
        pair.append(_kept(out / "evaluations", origin, asked, spec, name, seed))
    return Comparison(*pair)


def _losses_compared(
    source: OpenSource, stage: Planned, spec: LossSpec, out: Path, say: Callable[[str], None], seed: int, **where: Any
) -> Comparison:
    last = stage.result()
    asked = probe(source, spec, last.root, last.chat_template, room_of(last), **where)

    def told(name: str, origin: Origin) -> Measurement:
        return measurement(kept_losses(out / "evaluations", origin, asked, name, say), asked, name, seed)

    return Comparison(told("base", base_of(last)), told(stage.spec.name, last))


def longest_prompt(root: Path, spec: GenerateSpec, **where: Any) -> int:
    """Tokens of the longest prompt that leaves room for an answer. Raises UserError where there is none."""
    room = positions_of(root) - (0 if family_of(root) == "seq2seq" else spec.max_new_tokens)
    if room < (spec.max_length or 1):
        raise UserError(
            f"{root.name} has {positions_of(root)} positions: too few for max_new_tokens {spec.max_new_tokens}"
            + (f" after prompts of max_length {spec.max_length}" if spec.max_length else ""),
            **where,
            fix="fewer tokens",
        )
    return spec.max_length or min(room, LONGEST)


def _wanted(record: Record) -> tuple[str, ...]:
    """The right answers: the record's own, and what a list of several held beside it."""
    if record.messages is not None:
        last = record.messages[-1]
        if last.role != "assistant" or last.tool_calls:
            raise UserError("the conversation does not end with an answer in words", file=record.file, line=record.line)
        return (last.content,)
    assert record.completion is not None
    several = record.columns.get("references")
    if isinstance(several, list) and several[:1] == [record.completion]:
        return tuple(several)
    return (record.completion,)


def _kept(
    folder: Path, origin: Origin, asked: Sequence[Question], spec: GenerateSpec, name: str, seed: int
) -> Evaluation:
    """The evaluation, worked out once for the same model, prompts and settings."""
    told = {
        "model": [origin.identity, origin.chat_template],
        "asked": [(repr(one.prompt.prompt), one.wanted) for one in asked],
        "spec": spec.model_dump(mode="json", exclude={"data", "at_least", "gain"}),
        "seed": seed,
        "versions": library_versions(),
    }
    file = folder / f"{name}-{hash_of(told)[:12]}.json"
    if file.is_file():
        return Evaluation(**json.loads(file.read_text(encoding="utf-8")))
    found, rows = evaluate(origin, asked, spec, name=name, seed=seed)
    folder.mkdir(exist_ok=True)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    replace_text(file.with_suffix(".jsonl"), lines)
    replace_text(file, json.dumps(asdict(found), indent=2) + "\n")
    return found


def _opened(recipe: Recipe, number: int) -> OpenSource:
    return open_source(recipe.evaluate[number].data, recipe.resolve, **recipe.where(f"evaluate.{number}.data"))
