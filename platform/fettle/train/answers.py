"""A teacher's answers to a stage's prompts, from which the student then learns (Kim & Rush 2016, arXiv:1606.07947,
section 3.2: sequence-level distillation). Each is written down as it comes, and not asked for again.
"""

from __future__ import annotations

import gc
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from fettle.artifact import replace_text
from fettle.data.asked import as_prompt, with_answer
from fettle.data.cache import is_whole
from fettle.data.coder import Coder
from fettle.data.encode import encode
from fettle.data.record import Message, Record
from fettle.data.rows import complaint_of
from fettle.data.sources import read_source
from fettle.data.tokens import write_tokens
from fettle.errors import UserError
from fettle.models.base import load_tokenizer
from fettle.models.generate import like_lengths
from fettle.recipe.distill import DistillStage
from fettle.train.checkpoint import Fence
from fettle.train.generate import Generator
from fettle.train.job import GroupMember, StageJob, Teacher

_BATCH_TOKENS = 1 << 14  # of prompts and answers, with their padding
_POLL_S = 0.1


def answered(job: StageJob, member: GroupMember) -> StageJob:
    """The stage with the teacher's answers as its data, encoded. All workers call it together, each answers its share.

    Raises UserError where no answer to a source's prompts ends within `max_new_tokens`.
    """
    teacher = job.teacher
    assert teacher is not None and teacher.answers is not None
    answers = _Answers(job, member, teacher)
    found = []
    for number, source in enumerate((*teacher.prompts, teacher.heldout_prompts)):
        if source is None:
            continue
        name = "heldout" if number == len(teacher.prompts) else str(number)
        folder = job.folder / "answers" / name
        if not is_whole(folder):
            prompts = [as_prompt(record) for record in read_source(source, complaint_of(source.spec))]
            file = answers.write(name, prompts, seed=f"{job.seed} {name}")
            if member.rank == 0:
                _encode(folder, file, prompts, job)
            _wait(partial(is_whole, folder), member.fence)
        found.append(folder)
    del answers
    gc.collect()  # the teacher's weights
    heldout = (found.pop(),) if teacher.heldout_prompts is not None else job.heldout
    return replace(job, tokens=(*((folder,) for folder in found), *job.tokens), heldout=heldout)


class _Answers:
    """The teacher's answers, in files of `teacher.answers`; its weights are loaded when something is left to ask."""

    def __init__(self, job: StageJob, member: GroupMember, teacher: Teacher) -> None:
        assert isinstance(job.spec, DistillStage) and job.spec.max_new_tokens is not None
        assert teacher.answers is not None
        self._folder, self._member = teacher.answers, member
        self._most = job.spec.max_new_tokens
        # As transformers chooses it for training.
        place = ("cuda", int(os.environ.get("LOCAL_RANK", 0))) if member.cluster.gpus_per_worker else ("cpu",)
        self._generator = Generator(job, teacher, torch.device(*place))

    def write(self, name: str, prompts: Sequence[Record], seed: str) -> Path:
        """The file of all answers, a JSON line each in the order of the prompts; what lies there is not asked again."""
        file = self._folder / f"{name}.jsonl"
        if file.is_file():
            return file
        self._folder.mkdir(parents=True, exist_ok=True)
        rank, world, fence = self._member.rank, self._member.world, self._member.fence
        mine, is_chat = self._part(name, rank), self._generator.tokenizer.chat_template is not None
        coded = [ids for ids, _ in Coder(self._generator.tokenizer).code(list(prompts))]
        there = {row["record"] for row in self._rows(name)}
        fits = [number for number, ids in enumerate(coded) if 0 < len(ids) <= self._generator.longest_prompt]
        with open(mine, "a", encoding="utf-8") as stream:
            stream.write("\n")  # after a line that was torn when an earlier attempt was killed
            # Batches are the same for any number of workers, so that an answer does not depend on it.
            lengths = [len(coded[one]) for one in fits]
            for places in list(like_lengths(lengths, self._most, _BATCH_TOKENS))[rank::world]:
                batch = [fits[place] for place in places]
                if not there.issuperset(batch):
                    said = self._generator.answer([coded[one] for one in batch], [f"{seed} {one}" for one in batch])
                    made = zip(batch, said, strict=True)
                    stream.writelines(_line(number, prompts[number], is_chat, *one) for number, one in made)
                    stream.flush()
        self._done(name, rank).touch()
        if rank == 0:
            _wait(lambda: all(self._done(name, other).exists() for other in range(world)), fence)
            rows = {row["record"]: row for row in self._rows(name)}
            fence.check()
            replace_text(file, "".join(json.dumps(rows[number], ensure_ascii=False) + "\n" for number in sorted(rows)))
            for left in self._folder.glob(f"{name}.*.part*"):
                left.unlink()
        _wait(file.is_file, fence)
        return file

    def _rows(self, name: str) -> Iterator[dict[str, Any]]:
        """Whatever was answered so far, by any worker of any attempt."""
        for part in self._folder.glob(f"{name}.*.part"):
            with open(part, encoding="utf-8", errors="replace") as stream:
                for line in stream:
                    with suppress(ValueError):
                        yield json.loads(line)

    def _part(self, name: str, rank: int) -> Path:
        return self._folder / f"{name}.{self._member.fence.token}-{rank}-of-{self._member.world}.part"

    def _done(self, name: str, rank: int) -> Path:
        part = self._part(name, rank)
        return part.with_name(f"{part.name}-done")


def _line(number: int, prompt: Record, is_chat: bool, answer: str, num_tokens: int, has_ended: bool) -> str:
    """A row that `fettle` reads as a prompt with its completion: text, or (is_chat) messages, as it was asked."""
    assert prompt.prompt is not None
    asked: Any = "".join(prompt.prompt.plain)
    said: Any = answer
    if is_chat:
        asked = [_told(turn) for turn in prompt.prompt.turns]
        said = [{"role": "assistant", "content": answer}]
    row = {"record": number, "prompt": asked, "completion": said}
    row |= {"tokens": num_tokens, "ended": has_ended}
    return json.dumps(row | ({"tools": prompt.tools} if prompt.tools else {}), ensure_ascii=False) + "\n"


def _said(row: dict[str, Any]) -> str:
    said = row["completion"]
    return said if isinstance(said, str) else str(said[0]["content"])


def _told(turn: Message) -> dict[str, Any]:
    told = {"role": turn.role, "content": turn.content}
    more = {"tool_calls": turn.tool_calls, "name": turn.name, "tool_call_id": turn.tool_call_id}
    return told | {key: value for key, value in more.items() if value}


def _encode(folder: Path, file: Path, prompts: Sequence[Record], job: StageJob) -> None:
    """The answers as the student's tokens. One that was broken off is left out: it would teach to stop there."""
    with open(file, encoding="utf-8") as stream:
        rows = [json.loads(line) for line in stream]
    ended = {row["record"]: answer for row in rows if row["ended"] and (answer := _said(row)).strip()}
    print(f"{file}: {len(prompts):,} prompts, {len(rows):,} answered, {len(ended):,} of them to the end", flush=True)
    if not ended:
        assert isinstance(job.spec, DistillStage)
        raise UserError(
            f"of {len(rows)} answers of the teacher none ends within {job.spec.max_new_tokens} tokens (see {file})",
            field=f"stages.{job.name}.max_new_tokens",
            fix="raise it, or take a teacher that was trained to end its answers",
        )
    records = (with_answer(prompts[number], answer) for number, answer in ended.items())
    tokenizer = load_tokenizer(job.base, job.chat_template)
    write_tokens(folder, encode(records, tokenizer, max_length=job.max_length, on_long=job.spec.on_long))


def _wait(holds: Callable[[], bool], fence: Fence) -> None:
    """Until it holds. No collective: answering takes longer than their time-out."""
    while not holds():
        fence.check()
        time.sleep(_POLL_S)
