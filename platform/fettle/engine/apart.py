"""Engines in a process of their own, asked once, one after the other: for a process that trains or has started Ray.

python -m fettle.engine.apart ASKED.json TOLD.json
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fettle.engine.env import EngineOptions, prepare_process
from fettle.engine.sampling import Read, Sampling
from fettle.errors import FettleError, UserError

TokenIds = tuple[int, ...]
_ADAPTER = "adapter"


@dataclass(frozen=True)
class Questions:
    """What an engine over the model in a folder, under an adapter where one is given, is asked. prompts: to be answered
    greedily; texts: to be scored. Both are token ids."""

    model: Path
    adapter: Path | None
    options: EngineOptions
    prompts: tuple[TokenIds, ...]
    texts: tuple[TokenIds, ...]
    max_new_tokens: int
    end_ids: TokenIds


@dataclass(frozen=True)
class Answers:
    """Each prompt's answer without the token that ends it, and what was read of each text. dtype: in which the engine
    computes."""

    answers: tuple[TokenIds, ...]
    read: tuple[Read, ...]
    dtype: str


def ask_apart(questions: Sequence[Questions], log: Path, timeout_s: float) -> list[Answers]:
    """The answers to all questions, in their order. log: what the process prints.

    Raises UserError with the engine's own reason where one refuses the adapter or what it is asked, FettleError where
    the process fails, or does not answer in time.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="fettle-") as folder:
        asked, told = Path(folder, "asked.json"), Path(folder, "told.json")
        asked.write_text(json.dumps([asdict(one) for one in questions], default=str), encoding="utf-8")
        command = [sys.executable, "-m", "fettle.engine.apart", str(asked), str(told)]
        with open(log, "ab") as printed:
            try:
                done = subprocess.run(command, stdout=printed, stderr=printed, timeout=timeout_s, check=False)
            except subprocess.TimeoutExpired:
                raise FettleError(f"the engine has not answered within {timeout_s:g} s; log {log}") from None
        if not told.is_file():
            raise FettleError(f"the engine's process ended with {done.returncode}; log {log}")
        found = json.loads(told.read_text(encoding="utf-8"))
    if isinstance(found, str):
        raise UserError(found)
    return [
        Answers(tuple(map(tuple, one["answers"])), tuple(Read(*map(tuple, read)) for read in one["read"]), one["dtype"])
        for one in found
    ]


def _main(asked: Path, told: Path) -> None:
    questions = [
        Questions(**one | {key: Path(one[key]) if one[key] else None for key in ("model", "adapter")})
        for one in json.loads(asked.read_text(encoding="utf-8"))
    ]
    prepare_process(EngineOptions(**questions[0].options))  # type: ignore[arg-type]  # of JSON
    try:
        text = json.dumps([_answered(one) for one in questions])
    except UserError as error:
        text = json.dumps(str(error))
    partial = told.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    partial.rename(told)


def _answered(one: Questions) -> dict[str, Any]:
    from fettle.engine import start_engine

    engine = start_engine(one.model, EngineOptions(**one.options))  # type: ignore[arg-type]  # of JSON
    try:
        name = None
        if one.adapter is not None:
            name = _ADAPTER
            engine.add_adapter(name, one.adapter)
        sampling = Sampling(max_new_tokens=one.max_new_tokens, stop_token_ids=tuple(one.end_ids))
        said = [answers[0].token_ids for answers in engine.generate(one.prompts, sampling, name)]
        read = [(one.logprobs, one.are_likeliest) for one in engine.read(one.texts, name)]
    finally:
        engine.close()
    ends = set(one.end_ids)
    return {
        "answers": [ids[:-1] if ids and ids[-1] in ends else ids for ids in said],
        "read": read,
        "dtype": engine.dtype,
    }


if __name__ == "__main__":
    _main(Path(sys.argv[1]), Path(sys.argv[2]))
