"""What a distill stage needs: its teacher found, checked before any worker starts, and handed to the workers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedTokenizerBase

from fettle.artifact import is_artifact, read_artifact
from fettle.data.asked import as_prompt, with_answer
from fettle.data.coder import Coder
from fettle.data.encode import encode
from fettle.data.rows import complaint_of
from fettle.data.sources import read_source
from fettle.errors import UserError
from fettle.models.base import load_tokenizer, positions_of, resolve_base
from fettle.models.family import family_of
from fettle.models.mergeable import why_not_made, why_not_merged
from fettle.pipeline.origin import Origin, folder_origin
from fettle.pipeline.planned import PlannedSource, PlannedStage, hash_of
from fettle.recipe import Recipe
from fettle.recipe.distill import DistillStage
from fettle.train.job import Teacher

_RECORDS_AT_ONCE = 256
EndIds = Callable[[PreTrainedTokenizerBase], tuple[int, ...]]


def folder_teacher(recipe: Recipe, stage: DistillStage) -> Origin:
    """The teacher where it is no earlier stage: a bundled model, a folder's content, or what the hub has."""
    where = _where(recipe, stage, "teacher")
    names = [one.name for one in recipe.stages]
    if stage.teacher in names:
        raise UserError(
            f"'{stage.teacher}' is no earlier stage",
            **where,
            expected=", ".join(names[: names.index(stage.name)]) or "a model: this is the first stage",
        )
    return folder_origin(resolve_base(stage.teacher, recipe.file.parent, **where), takes_foreign=True, **where)


def answered_sources(stage: PlannedStage) -> tuple[PlannedSource, ...]:
    """Those whose prompts the teacher answers: none but with `loss: answers`; what is replayed keeps its answers."""
    spec = stage.spec
    return stage.sources[: len(spec.data)] if isinstance(spec, DistillStage) and spec.loss == "answers" else ()


def check_teacher(recipe: Recipe, stage: PlannedStage) -> None:
    """Raises UserError where the teacher is no causal language model that can be used whole, or cannot teach this
    student by this loss."""
    spec, teacher = stage.spec, stage.teacher
    if not isinstance(spec, DistillStage):
        return
    assert teacher is not None
    where = _where(recipe, spec, "teacher")
    of = teacher.adapter or teacher.base
    kind = read_artifact(of).kind if is_artifact(of) else "model"
    if kind not in ("model", "adapter"):
        raise UserError(f"{of.name} is a {kind}, no language model", **where, expected="a language model")
    if family_of(teacher.root) != "causal":
        raise UserError(f"{of.name} does not predict the next token", **where, expected="a causal language model")
    if reason := _why_not_whole(teacher):
        raise UserError(f"the teacher's adapter cannot be merged: {reason}", **where)
    if spec.loss != "answers":
        _check_same_tokens(recipe, stage, teacher)
    elif spec.max_new_tokens is not None and spec.max_new_tokens >= positions_of(teacher.root):
        raise UserError(
            f"{spec.max_new_tokens} new tokens leave none of the teacher's {positions_of(teacher.root)} positions for"
            " a prompt",
            **_where(recipe, spec, "max_new_tokens"),
            fix="make it smaller",
        )


def teacher_of(
    recipe: Recipe, stage: PlannedStage, out: Path, student: PreTrainedTokenizerBase, end_ids: EndIds
) -> tuple[Teacher | None, list[str]]:
    """(what the workers are handed of a distillation's teacher, what to tell of the prompts it is to answer).

    out: the run's folder, in which answers are named by all that decides them, so that other settings of the student's
    training find them there. end_ids: gives those of a tokenizer. Raises UserError where prompts cannot be asked.
    """
    spec, teacher = stage.spec, stage.teacher
    if teacher is None or not isinstance(spec, DistillStage):
        return None, []
    if spec.loss != "answers":
        return Teacher(base=teacher.base, adapter=teacher.adapter), []
    tokenizer = load_tokenizer(teacher.root, teacher.chat_template)
    asked = [*answered_sources(stage), *([stage.heldout] if stage.heldout else [])]
    notes = [note for source in asked for note in _check_prompts(recipe, stage, source, tokenizer, student)]
    told: list[Any] = [teacher.identity, teacher.chat_template, recipe.seed, stage.precision]
    told += [spec.max_new_tokens, spec.temperature, [source.digest for source in asked], stage.heldout is not None]
    folder = out / "answers" / f"{spec.name}-{hash_of(told)[:12]}"
    notes.append(f"stages.{spec.name}: the teacher's answers come to {folder}")
    return Teacher(
        base=teacher.base,
        adapter=teacher.adapter,
        answers=folder,
        prompts=tuple(source.opened for source in answered_sources(stage)),
        heldout_prompts=stage.heldout.opened if stage.heldout else None,
        end_ids=end_ids(tokenizer),
        chat_template=teacher.chat_template,
    ), notes


def _check_same_tokens(recipe: Recipe, stage: PlannedStage, teacher: Origin) -> None:
    """Raises UserError unless teacher and student give the same tokens probabilities, and the student is another."""
    spec, student = stage.spec, stage.origin
    assert isinstance(spec, DistillStage)
    where = _where(recipe, spec, "teacher")
    theirs, mine = (load_tokenizer(one.root).get_vocab() for one in (teacher, student))
    if theirs != mine:
        differs = sum(theirs.get(token) != number for token, number in mine.items())
        raise UserError(
            f"teacher and student have other tokens: of the student's {len(mine):,}, {differs:,} are not the teacher's",
            **where,
            expected=f"for loss: {spec.loss}, one tokenizer",
            fix="say loss: answers, which works with any two",
        )
    for one, whose in ((teacher, "teacher"), (student, "student")):
        rows = AutoConfig.from_pretrained(one.root, trust_remote_code=False).get_text_config().vocab_size
        if rows <= max(mine.values()):
            raise UserError(f"the {whose}'s tokenizer has more tokens than its output head's {rows:,} rows", **where)
    if stage.max_length > positions_of(teacher.root):
        positions = positions_of(teacher.root)
        raise UserError(
            f"max_length {stage.max_length} is above the {positions} positions of the teacher",
            **where,
            fix=f"say max_length: {positions}, or less",
        )
    is_same = (teacher.identity, teacher.base) == (student.identity, student.base)
    # Held to what it was while it learns something new: that is a use, where it is meant.
    if is_same and (spec.alpha == 1 or (spec.from_ is None and spec.base is None)):
        raise UserError(
            "the student begins as the teacher itself, from which it has nothing to learn",
            **where,
            fix="say which model the student is with base: MODEL, or from: an earlier stage",
        )


def _check_prompts(
    recipe: Recipe,
    stage: PlannedStage,
    source: PlannedSource,
    tokenizer: PreTrainedTokenizerBase,
    student: PreTrainedTokenizerBase,
) -> list[str]:
    """What to tell of the prompts of a source. Raises UserError where the teacher's template refuses one, the student's
    the first, or none leaves room for an answer."""
    assert isinstance(stage.spec, DistillStage) and stage.spec.max_new_tokens is not None and stage.teacher is not None
    room = positions_of(stage.teacher.root) - stage.spec.max_new_tokens
    num_prompts = num_long = 0
    coder = Coder(tokenizer)
    prompts = (as_prompt(record) for record in _records(source))
    while batch := list(islice(prompts, _RECORDS_AT_ONCE)):
        if not num_prompts:
            # What comes of it does not matter, but that the student's template takes it.
            list(encode([with_answer(batch[0], "x")], student, max_length=stage.max_length, must_learn=False))
        num_prompts += len(batch)
        num_long += sum(len(ids) > room for ids, _ in coder.code(batch))
    if num_prompts == num_long:
        raise UserError(
            f"none of {num_prompts} prompts has {room} tokens or less, which is what {stage.spec.max_new_tokens} new"
            " tokens leave of the teacher's positions",
            **_where(recipe, stage.spec, "max_new_tokens"),
            fix="make it smaller",
        )
    told = f"of {num_prompts:,} prompts {num_long:,} are longer than the {room} tokens that leave the teacher room for"
    return [f"{source.field}: {told} an answer, and are left out"] if num_long else []


def _records(source: PlannedSource) -> Iterable[Any]:
    return read_source(source.opened, complaint_of(source.opened.spec))


def _why_not_whole(teacher: Origin) -> str | None:
    """Why the teacher's adapter cannot be merged; None where it can, or where there is none."""
    if teacher.adapter is None:
        return None
    if (teacher.adapter / "adapter_config.json").is_file():
        return why_not_merged(teacher.adapter, several=False)
    return why_not_made(teacher.adapter_spec, several=False) if teacher.adapter_spec is not None else None


def _where(recipe: Recipe, stage: DistillStage, key: str) -> dict[str, Any]:
    field = f"stages.{stage.name}.{key}"
    return recipe.where(field)
