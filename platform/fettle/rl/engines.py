"""One vLLM engine in a Ray actor, which answers prompts by the newest version of the policy it has taken."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fettle.engine import EngineOptions, start_engine
from fettle.engine.sampling import Completion, Sampling
from fettle.errors import FettleError
from fettle.output import print_into

POLICY = "policy"  # what an adapter is called in the engine


@dataclass(frozen=True)
class Version:
    """Weights of the policy. number: from 0, which is the base as it lies on the disk. path: of full weights (a
    safetensors file), or of an adapter's folder; never changed once an engine was told of it."""

    number: int = 0
    path: Path | None = None
    is_adapter: bool = False


@dataclass(frozen=True)
class Asked:
    """A prompt, and the seed of what is drawn for it."""

    prompt_ids: tuple[int, ...]
    seed: int


@dataclass(frozen=True)
class Answered:
    """The completions of one prompt, and the number of the version that they were drawn with."""

    completions: tuple[Completion, ...]
    version: int


class EngineActor:
    """Lives in a process of its own; made by the pool. Ray runs one call of it after the other."""

    def __init__(self, model: Path, options: EngineOptions, log: Path) -> None:
        print_into(log)
        self._engine = start_engine(model, options)
        self._version: Version | None = Version()  # None: it may hold parts of several

    def process(self) -> int:
        """The process's number; answers when the engine is there."""
        return os.getpid()

    def take(self, version: Version) -> None:
        """Answers by `version` from now on. Raises UserError or FettleError with vLLM's reason where it cannot; then
        nothing is answered until a version was taken."""
        if version == self._version:
            return
        if version.path is None:
            raise FettleError("an engine does not go back to its base")
        self._version = None
        if version.is_adapter:
            replaced = self._engine.add_adapter(POLICY, version.path)
            if replaced is not None:
                self._engine.drop_version(replaced)
        else:
            self._engine.take_weights(version.path)
        self._version = version

    def answer(self, asked: Sequence[Asked], sampling: Sampling) -> list[Answered]:
        """Each prompt's completions, in the prompts' order."""
        version = self._version
        if version is None:
            raise FettleError("it holds no whole version of the policy, since it did not take the last one")
        found = self._engine.generate(
            [one.prompt_ids for one in asked],
            sampling,
            POLICY if version.is_adapter else None,
            seeds=[one.seed for one in asked],
        )
        return [Answered(tuple(completions), version.number) for completions in found]
