"""A few of a run's answers to held-out prompts, the base's and the result's side by side, for its report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fettle.pipeline.evaluated import Comparison, Evaluation

SHOWN = 6
"""Prompts of each comparison."""
_MOST = 20_000  # characters of one text: a page is no place for more


@dataclass(frozen=True)
class Sample:
    """A prompt and what was said to it. place: file and line. wanted: the answers that are right."""

    place: str
    prompt: str
    wanted: tuple[str, ...]
    before: str
    after: str

    @property
    def is_right(self) -> bool:
        """Whether the result says one of the right answers word for word."""
        return self.after.strip() in {text.strip() for text in self.wanted}


@dataclass(frozen=True)
class Samples:
    """Some of a comparison's answers, at even distances. of: how many there are. files: with all of them."""

    data: str
    before: str
    after: str
    of: int
    files: tuple[str, str]
    shown: tuple[Sample, ...]


def samples(compared: Sequence[Comparison], out: Path) -> list[Samples]:
    """Of each comparison whose answers lie in the run's folder."""
    found = []
    for one in compared:
        if isinstance(one.before, Evaluation) and isinstance(one.after, Evaluation):
            before, after = (_rows(out / "evaluations" / side.file) for side in (one.before, one.after))
            if not (rows := list(zip(before, after, strict=True))):
                continue
            step = max(1, len(rows) // SHOWN)
            shown = tuple(_sample(*pair) for pair in rows[: step * SHOWN : step])
            files = one.before.file, one.after.file
            found.append(Samples(one.after.data, one.before.model, one.after.model, len(rows), files, shown))
    return found


def _rows(file: Path) -> list[dict[str, Any]]:
    if not file.is_file():  # it was taken away, or is of a report made by hand
        return []
    with open(file, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def _sample(before: dict[str, Any], after: dict[str, Any]) -> Sample:
    return Sample(
        place=f"{Path(after['file']).name}, line {after['line']}",
        prompt=_cut(_as_text(after.get("prompt", ""))),
        wanted=tuple(map(_cut, after["wanted"])),
        before=_cut(before["answer"]),
        after=_cut(after["answer"]),
    )


def _as_text(prompt: str | list[dict[str, Any]]) -> str:
    """A single question as it is, else who says what."""
    if isinstance(prompt, str):
        return prompt
    if len(prompt) == 1:
        return str(prompt[0]["content"])
    return "\n".join(f"{turn['role']}: {turn['content']}" for turn in prompt)


def _cut(text: str) -> str:
    return text if len(text) <= _MOST else f"{text[:_MOST]}… ({len(text):,} characters in all)"
