"""A first recipe for a task and its data: what `fettle init` writes, with a goal and held-out records."""

from __future__ import annotations

import math
import os
import re
import shutil
import tempfile
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fettle.data import remote
from fettle.data.encode import encode
from fettle.data.formats import read_file
from fettle.data.record import Message, Prompt, Record
from fettle.data.sources import OpenSource, open_source, read_source
from fettle.data.split import split
from fettle.errors import UserError
from fettle.models.base import BUNDLED, load_tokenizer, positions_of, resolve_base, resolve_template
from fettle.models.family import family_of
from fettle.pipeline.evaluated import LONGEST, check_speaks
from fettle.pipeline.evaluation import check_evaluations
from fettle.pipeline.graph import plan_stages
from fettle.pipeline.origin import Origin
from fettle.pipeline.recipe_text import Draft, recipe_text
from fettle.recipe import load_recipe
from fettle.recipe.data import DataSpec
from fettle.recipe.tasks import Task, task_of

_SAMPLE = 1000  # records that are measured
_SHARE, _MOST = 10, 200  # a tenth is held out, and no more than so many
_STEPS, _EPOCHS, _BATCH, _LEAST_BATCH = 100, 10, 4096, 512  # a step's tokens: fewer, where there would be fewer steps
_SMALL_BYTES = 200 << 20  # of weights: a smaller model learns at a higher rate
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")


@dataclass(frozen=True)
class Written:
    """The files of a first recipe. records: that are learned. goal: what the result has to reach, in words."""

    recipe: Path
    train: tuple[str, ...]
    heldout: str
    records: int
    goal: str


@dataclass(frozen=True)
class Seen:
    """What was found in the data. columns: those of its first file that are read. longest, answer: tokens of the
    longest of the first 1,000 records, and of their longest answer; mean: of all of them."""

    records: int
    kind: str
    columns: tuple[str, ...]
    longest: int
    answer: int
    mean: float


def first_recipe(
    task: str,
    data: Sequence[DataSpec],
    out: Path,
    *,
    base: str = "tiny",
    heldout: str | None = None,
    goals: Mapping[str, float] | None = None,
    gains: Mapping[str, float] | None = None,
    command: str = "fettle init",
) -> Written:
    """Writes a recipe into `out`, and the data beside it, split: `OUT-data/train.jsonl` and `heldout.jsonl`, a tenth of
    the records, at most 200. heldout: a file of them instead, where the data is used as it lies.

    goals: score → what the result has to reach; gains: how much better than the base it has to be. Raises UserError,
    and leaves nothing behind, for a file that is there already, for data that is none for the task, and where the
    recipe would not run.
    """
    of = task_of(task)
    if out.exists():
        raise UserError("it is there already, and never overwritten", file=out, fix="name another file with --out")
    root = resolve_base(base, field="--base")
    check_speaks(Origin(root, root, ""), field="--base")
    sources = [open_source(spec, Path, field="--data") for spec in data]
    template = "chatml" if load_tokenizer(root).chat_template is None and _kind(sources) == "messages" else None
    seen = look(sources, root, template, of, task)
    bounds = {"goals": dict(goals or {}), "gains": dict(gains or {})}
    if not any(bounds.values()):
        bounds["gains"] = dict([of.gain])
    folder = out.with_name(f"{out.stem}-data")
    with _nothing_left(out, folder):
        held, kept, count = _parts(data, folder, heldout, seen.records)
        room, tokens, batch = positions_of(root), seen.mean * count, _BATCH
        while batch > _LEAST_BATCH and tokens * _EPOCHS < _STEPS * batch:
            batch //= 2
        draft = Draft(
            name=out.stem if out.stem != "recipe" and _NAME.match(out.stem) else task,
            command=command,
            base=base if base in BUNDLED or not Path(base).is_dir() else _near(base, out),
            chat_template=template,
            cluster=_cluster(),
            task=of,
            stage=task,
            sources=[_as_source(spec, out, seen) for spec in kept],
            heldout=_as_source(held, out, seen),
            records=count,
            epochs=min(_EPOCHS, max(1, math.ceil(_STEPS * batch / tokens))),
            lr=4e-3 if sum(file.stat().st_size for file in root.glob("*.safetensors")) < _SMALL_BYTES else 2e-4,
            batch_tokens=batch,
            max_length=min(_up(seen.longest, 32), room, LONGEST) if of.metrics else None,
            max_new_tokens=min(_up(seen.answer + seen.answer // 4, 16), room // 2),
            limit=None if heldout is None else _MOST,
            **bounds,
        )
        _write(out, recipe_text(draft))
        _check(out)
    paths = tuple(spec.path for spec in kept)
    return Written(out, paths, held.path, count, _in_words(of, **bounds))


def look(sources: Sequence[OpenSource], root: Path, template: str | None, task: Task, name: str) -> Seen:
    """What is in the data, as the base's tokens. Raises UserError for records that the task does not learn from."""
    kind = _kind(sources)
    if kind not in task.takes:
        raise UserError(
            f"records of kind {kind} are none that {name} learns from",
            file=sources[0].files[0],
            field="--task",
            expected=f"records of kind {' or '.join(task.takes)}",
            fix=_INSTEAD.get(kind),
        )
    count = sum(1 for source in sources for _ in read_source(source))
    sample = (_answered(record) for source in sources for record in _first(source))
    lengths, answer = array("I"), 0
    is_halved = family_of(root) == "seq2seq"
    tokenizer = load_tokenizer(root, resolve_template(template) if template is not None else None)
    for example in encode(sample, tokenizer, max_length=1 << 30, lengths=lengths, is_halved=is_halved):
        answer = max(answer, int(np.count_nonzero(example.loss_mask)))
    columns = read_file(sources[0].files[0], sources[0].spec)[0].columns
    return Seen(count, kind, columns, max(lengths), answer, sum(lengths) / len(lengths))


_INSTEAD = {
    "text": "documents are what --task domain learns",
    "preference": "recipes/preference.yaml shows how pairs of answers are learned",
    "unpaired": "recipes/preference.yaml shows how judged answers are learned, with loss: kto",
    "prompt": "add an answer to each, or see recipes/rlhf-ppo.yaml for learning from rewards",
    "label": "texts with labels are what --task classify learns",
}


def _kind(sources: Sequence[OpenSource]) -> str:
    return next(read_source(sources[0])).kind


def _first(source: OpenSource) -> Iterator[Record]:
    """The first records, until they are 1,000 or have four million characters."""
    size = 0
    for record in islice(read_source(source), _SAMPLE):
        yield record
        size += len(record.text or "")
        if size > 1 << 22:
            return


def _answered(record: Record) -> Record:
    """A text with its label as the recipe has it read: a question and its answer."""
    if record.kind != "label":
        return record
    assert record.text is not None
    prompt = Prompt((Message("user", record.text),), (f"{record.text}\n",))
    return Record(record.file, record.line, prompt=prompt, completion=str(record.label))


def _parts(
    data: Sequence[DataSpec], folder: Path, heldout: str | None, records: int
) -> tuple[DataSpec, list[DataSpec], int]:
    """(held-out records, those to learn, how many these are), written into the folder where none are held out yet."""
    if heldout is not None:
        held = data[0].model_copy(update={"path": heldout, "limit": None})
        open_source(held, Path, field="--heldout")
        return held, list(data), records
    done = split(data, Path, folder, heldout=min(_MOST, max(1, records // _SHARE)))
    # The rows are as they were, so they are read as the first source was.
    keys = done.spec.model_dump(include={"format", "columns", "roles"}, exclude_defaults=True)
    train, held = (DataSpec(path=str(file), **keys) for file in done.files)
    return held, [train], done.files[Path(train.path)]


def _as_source(spec: DataSpec, out: Path, seen: Seen) -> Any:
    """The source as the recipe in `out` has it; a text with its label is read as a question and its answer."""
    told = spec.model_dump(exclude_defaults=True) | {"path": _near(spec.path, out)}
    if seen.kind == "label":
        text, label = seen.columns[:2]
        told |= {"format": "query_response", "columns": {"query": text, "response": label}}
    return told["path"] if set(told) == {"path"} else told


def _near(path: str, out: Path) -> str:
    """A path as one would write it in the recipe; what is elsewhere stays as it is."""
    is_elsewhere = remote.is_address(path) or (remote.hub_id(path) is not None and not Path(path).exists())
    return path if is_elsewhere or Path(path).is_absolute() else os.path.relpath(path, out.parent)


def _cluster() -> dict[str, Any]:
    """The worker group of this machine: one worker a GPU, or one with all CPUs."""
    gpus = torch.cuda.device_count()
    if gpus:
        return {"workers": gpus, "gpus_per_worker": 1, **({"zero": 2} if gpus > 1 else {})}
    return {"workers": 1, "cpus_per_worker": min(os.cpu_count() or 1, 16)}


def _up(number: int, step: int) -> int:
    return math.ceil(number / step) * step


def _in_words(task: Task, goals: Mapping[str, float], gains: Mapping[str, float]) -> str:
    most = "least" if task.metrics else "most"
    told = [f"{score} at {most} {bound:g}" for score, bound in goals.items()]
    return ", ".join([*told, *(f"{score} {bound:g} better than the base's" for score, bound in gains.items())])


def _write(out: Path, text: str) -> None:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with open(out, "x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise UserError(f"cannot be written ({error.strerror or error})", file=out) from None


def _check(file: Path) -> None:
    """Raises UserError where the recipe would be refused before anything is trained."""
    try:
        recipe = load_recipe(file)
        with tempfile.TemporaryDirectory() as folder:
            check_evaluations(recipe, plan_stages(recipe, Path(folder) / "run"))
    except UserError as error:
        got = f"the recipe would not run, and is not written: {error.got}"
        raise UserError(got, field=error.field, expected=error.expected, fix=error.fix) from None


@contextmanager
def _nothing_left(out: Path, folder: Path) -> Iterator[None]:
    """What was written goes where there is a mistake, the folders made for it too; what was there stays."""
    new = next((one for one in (*reversed(folder.absolute().parents), folder) if not one.exists()), None)
    before = set() if new is not None else set(folder.iterdir())
    try:
        yield
    except UserError:
        out.unlink(missing_ok=True)
        if new is not None:
            shutil.rmtree(new, ignore_errors=True)
        else:
            for file in set(folder.iterdir()) - before:
                file.unlink()
        raise
