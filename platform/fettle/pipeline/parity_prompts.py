"""The fixed prompts by which a result is compared with what an endpoint would serve."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from fettle.data.asked import as_prompt
from fettle.data.coder import Coder
from fettle.data.record import Message, Prompt, Record
from fettle.data.rows import complaint_of
from fettle.data.sources import OpenSource, open_source, read_source
from fettle.models.base import load_tokenizer
from fettle.pipeline.planned import Planned, PlannedRl, PlannedStage
from fettle.recipe import Recipe

COUNT = 8
_LOOKED_AT = 4096  # records of a source
_BEGINNING = 48  # tokens of a text, which asks for what follows
_GENERAL = (
    "Hello! Who are you?",
    "Write a short story about a dog.",
    "What is two and three?",
    "Once upon a time",
    "Name three colours.",
    "Explain why the sky is blue.",
    "Translate into French: good morning.",
    "Summarise: the train left an hour late because of the snow.",
)


def prompts_of(source: OpenSource) -> list[Record]:
    """Eight of a source's first records, up to what is answered, chosen and ordered by the hash of what they say."""
    read = islice(read_source(source, complaint_of(source.spec)), _LOOKED_AT)
    found = {hashlib.sha256(repr(_content(one)).encode()).digest(): one for one in map(_asked, read)}
    return [found[key] for key in sorted(found)[:COUNT]]


def general_prompts() -> list[Record]:
    """Eight that belong to no data."""
    return [
        Record(Path("general"), number, prompt=Prompt((Message("user", text),), (text,)))
        for number, text in enumerate(_GENERAL, start=1)
    ]


def source_of(recipe: Recipe, stages: Sequence[Planned]) -> OpenSource | None:
    """Where a run's prompts come from: the first data of its `evaluate`, else what its last stage that has some is
    measured on, or learns from."""
    for number, spec in enumerate(recipe.evaluate):
        if (data := getattr(spec, "data", None)) is not None:
            return open_source(data, recipe.resolve, **recipe.where(f"evaluate.{number}.data"))
    for stage in reversed(stages):
        if isinstance(stage, (PlannedStage, PlannedRl)):
            learned = stage.sources if isinstance(stage, PlannedStage) else stage.prompts
            return (stage.heldout or learned[0]).opened
    return None


def coded(records: Iterable[Record], folder: Path, template: str | None, longest: int) -> Iterator[np.ndarray]:
    """Each prompt's tokens, [T], of at most `longest` its end, of a text its beginning; by the tokenizer in a folder.
    Raises UserError where the template refuses one."""
    each = list(records)
    for record, (ids, _) in zip(each, Coder(load_tokenizer(folder, template)).code(each), strict=True):
        yield ids[: max(1, min(_BEGINNING, len(ids) - 1))] if record.text is not None else ids[-longest:]


def _asked(record: Record) -> Record:
    return record if record.text is not None else as_prompt(record)


def _content(asked: Record) -> object:
    return asked.text if asked.text is not None else (asked.prompt, asked.tools)
