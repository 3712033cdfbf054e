"""What a model answers to prompts, and which other model's answers a run's result is compared with."""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fettle.artifact import library_versions, replace_text
from fettle.data.coder import Coder, end_ids
from fettle.data.record import Record
from fettle.data.sources import OpenSource
from fettle.errors import UserError
from fettle.models.base import load_tokenizer
from fettle.models.family import family_of
from fettle.pipeline.answering import answer_row, longest_prompt
from fettle.pipeline.evaluated import check_speaks
from fettle.pipeline.graph import named_folder
from fettle.pipeline.origin import Origin, folder_origin
from fettle.pipeline.perplexity import base_of
from fettle.pipeline.planned import Planned, hash_of
from fettle.pipeline.unanswered import records_of
from fettle.recipe import Recipe
from fettle.recipe.judged import AnsweredSpec
from fettle.recipe.kinds import YIELDS_MODEL


@dataclass(frozen=True)
class Named:
    """A model of the run, or one that it is compared with: what reports call it, where it lies."""

    name: str
    origin: Origin


@dataclass(frozen=True)
class Answered:
    """A model's answers to prompts, in their order. prompts_cut: longer ones than it was given; answers_unended: those
    that `max_new_tokens` ended. seconds: what it took. file: of its answers, below a run's `evaluations/`."""

    model: str
    texts: tuple[str, ...]
    prompts_cut: int
    answers_unended: int
    seconds: float
    file: str = ""


def opponents(recipe: Recipe, number: int, stages: Sequence[Planned]) -> tuple[Named, Named]:
    """(the other model, the run's result) that the recipe's `evaluate.number` compares. Raises UserError, with file,
    line and field, for what has no answers."""
    spec, where = recipe.evaluate[number], recipe.where(f"evaluate.{number}.against")
    assert isinstance(spec, AnsweredSpec)
    last = stages[-1]
    result = Named(last.spec.name, last.result())
    if spec.against == "base":
        return Named("base", base_of(result.origin)), result
    by_name = {stage.spec.name: stage for stage in stages}
    if spec.against == last.spec.name:
        raise UserError(f"'{spec.against}' is the last stage, which is compared itself", **where)
    if spec.against in by_name:
        other = by_name[spec.against]
        if other.spec.kind not in YIELDS_MODEL:
            raise UserError(
                f"'{spec.against}' yields no language model: it is of kind {other.spec.kind}",
                **where,
                expected=f"a stage of kind {', '.join(YIELDS_MODEL)}",
            )
        return Named(spec.against, other.result()), result
    origin = folder_origin(named_folder(recipe, spec.against, **where), takes_foreign=True, **where)
    check_speaks(origin, **where)
    return Named(spec.against, origin), result


def check_answered(recipe: Recipe, number: int, stages: Sequence[Planned], source: OpenSource) -> None:
    """Raises UserError where the recipe's `evaluate.number` has nothing to ask, or a model has no room to answer."""
    spec, where = recipe.evaluate[number], recipe.where(f"evaluate.{number}")
    assert isinstance(spec, AnsweredSpec)
    longest_prompt(stages[-1].origin.root, spec, **where)
    if spec.against != "base":
        longest_prompt(opponents(recipe, number, stages)[0].origin.root, spec, **where)
    records_of(source, spec.limit, **where)


def kept_answers(
    folder: Path, one: Named, asked: Sequence[Record], spec: AnsweredSpec, seed: int, say: Callable[[str], None]
) -> Answered:
    """A model's answers to prompts, asked once of the same model; below `folder` they lie, a JSON line each with its
    prompt's place."""
    told = {
        "kind": "answers",
        "model": [one.origin.identity, one.origin.chat_template],
        "asked": [repr((record.prompt, record.tools)) for record in asked],
        "how": [spec.max_new_tokens, spec.max_length, spec.temperature, seed if spec.temperature else None],
        "versions": library_versions(),
    }
    file = folder / f"{one.name}-answers-{hash_of(told)[:12]}.json".replace("/", "-")
    if file.is_file():
        kept = json.loads(file.read_text(encoding="utf-8"))
        return Answered(**kept | {"model": one.name, "texts": tuple(kept["texts"])})
    say(f"asking {one.name} {len(asked):,} prompts of {spec.data.path}")
    each = file.with_suffix(".jsonl")
    found = replace(_answers(one, asked, spec, seed), file=each.name)
    folder.mkdir(exist_ok=True)
    pairs = zip(asked, found.texts, strict=True)
    replace_text(each, "".join(json.dumps(answer_row(*pair), ensure_ascii=False) + "\n" for pair in pairs))
    replace_text(file, json.dumps(asdict(found), ensure_ascii=False) + "\n")
    return found


def _answers(one: Named, asked: Sequence[Record], spec: AnsweredSpec, seed: int) -> Answered:
    # Here, because the driver of a run that is not evaluated needs none of them.
    from fettle.evaluate.generate import answers, cut_prompt
    from fettle.models.generate import load_speaker

    began = time.monotonic()
    root, is_seq2seq = one.origin.root, family_of(one.origin.root) == "seq2seq"
    longest, tokenizer = longest_prompt(root, spec), load_tokenizer(root, one.origin.chat_template)
    coded = [ids for ids, _ in Coder(tokenizer, is_halved=is_seq2seq).code(list(asked))]
    prompts = [cut_prompt(ids, longest, is_seq2seq=is_seq2seq) for ids in coded]
    model = load_speaker(one.origin.base, one.origin.adapter)
    keys: dict[str, Any] = {"end_ids": end_ids(tokenizer), "max_new_tokens": spec.max_new_tokens}
    said = dict(answers(model, tokenizer, prompts, **keys, temperature=spec.temperature, seed=seed))
    del model
    gc.collect()  # modules hold each other; the next model's weights would lie beside these
    return Answered(
        model=one.name,
        texts=tuple(said[place].text for place in range(len(asked))),
        prompts_cut=sum(len(ids) > longest for ids in coded),
        answers_unended=sum(not each.is_ended for each in said.values()),
        seconds=round(time.monotonic() - began, 1),
    )
