"""Worked examples before a prompt, from which a model may answer without being trained: Brown et al. 2020, "Language
Models are Few-Shot Learners" (arXiv:2005.14165, section 2)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from itertools import islice

import numpy as np

from fettle.data.overlap import folded
from fettle.data.record import Message, Prompt, Record
from fettle.data.rows import complaint_of
from fettle.data.sources import OpenSource, open_source, read_source
from fettle.data.split import asked
from fettle.errors import UserError
from fettle.pipeline.planned import Planned, PlannedStage
from fettle.recipe import Recipe
from fettle.recipe.evaluate import GenerateSpec

BETWEEN = "\n\n"
"""What parts examples where there is no chat template."""
_LEARNS_ANSWERS = ("sft", "distill")
_READ, _TRIED = 5000, 500  # records of a source that are looked at, and those of them that become tokens

Code = Callable[[list[Record]], list[np.ndarray]]


def examples(recipe: Recipe, number: int, stages: Sequence[Planned], questions: Sequence[Record]) -> list[Record]:
    """What the base may be shown in the recipe's evaluation of that number, in the order of their hashes: records with
    an answer of its `shots`, or else of the first stage that learns answers, none of which asks what a question does.

    Raises UserError where the recipe wants examples, and there are none.
    """
    spec = recipe.evaluate[number]
    assert isinstance(spec, GenerateSpec)
    if not spec.few_shot:
        return []
    field = f"evaluate.{number}.{'few_shot' if spec.shots is None else 'shots'}"
    where = recipe.where(field)
    if spec.shots is not None:
        sources = [open_source(spec.shots, recipe.resolve, **where)]
    else:
        learning = (one for one in stages if isinstance(one, PlannedStage) and one.spec.kind in _LEARNS_ANSWERS)
        sources = [one.opened for one in next((stage.sources for stage in learning), ())]
    found = choose(sources, questions)
    if not found and spec.model_fields_set & {"few_shot", "shots"}:
        raise UserError(
            "there is no example to show to the base",
            **where,
            expected="records with an answer in words, that ask something else than the held-out ones",
            fix="name a file of them as `shots`, or say few_shot: 0",
        )
    return found


def choose(sources: Sequence[OpenSource], questions: Sequence[Record]) -> list[Record]:
    """Of the first 5,000 records of each source those that can be shown as examples, in the order of their hashes: with
    an answer in words, without tools, each of another question, and of none of `questions`, case and white space
    aside."""
    taken = {_key(one) for one in questions}
    found: dict[bytes, Record] = {}
    for source in sources:
        for record in islice(read_source(source, complaint_of(source.spec)), _READ):
            if _is_example(record) and (key := _key(record)) not in taken:
                found.setdefault(key, record)
    return [found[key] for key in sorted(found)]


def fitting(candidates: Sequence[Record], most: int, longest: int, code: Code) -> list[Record]:
    """The first `most` of the candidates of which each takes no more than an equal share of `longest` tokens, with one
    share left for the question; fewer where so many are not among the first 500. code: records as tokens."""
    found: list[Record] = []
    for record in candidates[:_TRIED]:
        if len(found) == most:
            break
        if len(code([record])[0]) <= longest // (most + 1):
            found.append(record)
    return found


def with_shots(
    shots: Sequence[Record], prompts: Sequence[Record], longest: int, code: Code
) -> tuple[list[np.ndarray], list[int]]:
    """(tokens [T] of each prompt after as many of the shots as fit into `longest` of them, how many those are). A
    prompt that fits in no company stands alone, and is as long as it is."""
    coded: list[np.ndarray] = [np.zeros(0, np.int32)] * len(prompts)
    counts = [0] * len(prompts)
    left = list(range(len(prompts)))
    for count in range(len(shots), -1, -1):
        found = code([_after(shots[:count], prompts[place]) for place in left])
        for place, ids in zip(left, found, strict=True):
            coded[place], counts[place] = ids, count
        left = [place for place in left if len(coded[place]) > longest]
        if not left:
            break
    return coded, counts


def first_answer(text: str, shots: Sequence[Record]) -> str:
    """What a model without a chat template says up to the blank line that parts examples, after which it would go on
    with another question; all of it where one of the examples' answers has such a line itself."""
    if not shots or any(BETWEEN in (shot.completion or "") for shot in shots):
        return text
    return text.partition(BETWEEN)[0]


def has_plain(record: Record) -> bool:
    """Whether an example can be shown to a base without a chat template."""
    return record.prompt is not None and bool(record.prompt.plain)


def _after(shots: Sequence[Record], record: Record) -> Record:
    """The prompt after some examples: as turns, and as plain text where each of them has one."""
    if not shots:
        return record
    assert record.prompt is not None
    turns, plain = record.prompt.turns, record.prompt.plain
    opening = turns[:1] if turns and turns[0].role == "system" else ()
    shown = tuple(
        Message(turn.role, turn.content) for shot in shots for turn in shot.conversation if turn.role != "system"
    )
    if plain and all(has_plain(shot) for shot in shots):
        before = "".join(f"{_plain(shot)}{BETWEEN}" for shot in shots)
        plain = (before + plain[0], *plain[1:])
    else:
        plain = ()
    prompt = Prompt((*opening, *shown, *turns[len(opening) :]), plain)
    return Record(record.file, record.line, prompt=prompt, tools=record.tools)


def _plain(record: Record) -> str:
    assert record.prompt is not None
    return "".join(record.prompt.plain) + (record.completion or "")


def _is_example(record: Record) -> bool:
    if record.kind not in ("messages", "prompt_completion") or record.tools:
        return False
    turns = record.conversation
    has_words = all(turn.role in ("system", "user", "assistant") and not turn.tool_calls for turn in turns)
    return has_words and turns[-1].role == "assistant"


def _key(record: Record) -> bytes:
    return hashlib.blake2b(folded(asked(record)), digest_size=16).digest()
