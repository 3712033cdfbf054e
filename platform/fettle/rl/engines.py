"""One vLLM engine in a Ray actor, which answers prompts by the newest version of the policy it has taken."""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fettle.engine import EngineOptions, start_engine
from fettle.engine.sampling import Completion, Sampling
from fettle.errors import FettleError
from fettle.output import print_into

if TYPE_CHECKING:  # it imports torch, and an engine sets its environment first
    from fettle.engine.channel import Weights

POLICY = "policy"  # what an adapter is called in the engine


@dataclass(frozen=True)
class Probe:
    """Fixed texts, and the log-probability in nats of each token but the first by the learner's policy."""

    texts: tuple[tuple[int, ...], ...]
    logprobs: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Version:
    """Weights of the policy. number: from 0, which is the base as it lies on the disk. path: of full weights (a
    safetensors file), or of an adapter's folder; never changed once an engine was told of it. checksum: of the
    safetensors file, None where it is not looked at. probe: by which it is told whether these are the learner's.
    weights: in the learner's memory, where they are broadcast and no file is written."""

    number: int = 0
    path: Path | None = None
    is_adapter: bool = False
    checksum: int | None = None
    probe: Probe | None = None
    weights: Weights | None = field(default=None, compare=False, repr=False)

    @property
    def file(self) -> Path | None:
        """The safetensors file."""
        return self.path / "adapter_model.safetensors" if self.path is not None and self.is_adapter else self.path


def checksum_of(file: Path) -> int:
    """CRC-32 of a file: against what is torn or not yet there, at gigabytes a second."""
    found = 0
    with open(file, "rb") as stream:
        while block := stream.read(1 << 22):
            found = zlib.crc32(block, found)
    return found


@dataclass(frozen=True)
class Asked:
    """A prompt, and the seed of what is drawn for it. adapter: one that the engine holds beside the policy, and that
    answers in its place. end_ids: tokens that end its completions beside those of the sampling."""

    prompt_ids: tuple[int, ...]
    seed: int
    adapter: str | None = None
    end_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Answered:
    """The completions of one prompt, and the number of the version that they were drawn with."""

    completions: tuple[Completion, ...]
    version: int


class EngineActor:
    """Lives in a process of its own; made by the pool. Ray runs one call of it after the other."""

    def __init__(self, model: Path, options: EngineOptions, log: Path, adapters: Mapping[str, Path]) -> None:
        print_into(log)
        self._engine = start_engine(model, options)
        for name, folder in adapters.items():
            self._engine.add_adapter(name, folder)
        self._version: Version | None = Version()  # None: it may hold parts of several
        self._probed = 0.0

    def process(self) -> int:
        """The process's number; answers when the engine is there."""
        return os.getpid()

    def take(self, version: Version, sent: tuple[dict[str, Any], dict[str, Any]] | None = None) -> float:
        """Answers by `version` from now on; gives the largest difference from its probe, in nats. sent: the meeting and
        what comes of weights that a `Channel` sends meanwhile. Raises UserError or FettleError with vLLM's reason where
        it cannot; then nothing is answered until a version was taken."""
        if sent is None and version == self._version:
            return self._probed
        if sent is None and version.path is None:
            raise FettleError("an engine does not go back to its base")
        self._version = None
        if sent is not None:
            self._engine.receive_weights(*sent)
        else:
            self._read(version)
        self._probed = self._difference(version)
        self._version = version
        return self._probed

    def sleep(self) -> None:
        """Leaves its GPU to the learner, until `wake`."""
        self._engine.sleep()

    def wake(self) -> None:
        """Takes its GPU again."""
        self._engine.wake()

    def _read(self, version: Version) -> None:
        assert version.path is not None
        self._check(version)
        if version.is_adapter:
            replaced = self._engine.add_adapter(POLICY, version.path)
            if replaced is not None:
                self._engine.drop_version(replaced)
        else:
            self._engine.take_weights(version.path)

    def answer(self, asked: Sequence[Asked], sampling: Sampling) -> list[Answered]:
        """Each prompt's completions, in the prompts' order."""
        version = self._version
        if version is None:
            raise FettleError("it holds no whole version of the policy, since it did not take the last one")
        policy = POLICY if version.is_adapter else None
        found = self._engine.generate(
            [one.prompt_ids for one in asked],
            [replace(sampling, stop_token_ids=(*sampling.stop_token_ids, *one.end_ids)) for one in asked],
            [one.adapter or policy for one in asked],
            seeds=[one.seed for one in asked],
        )
        return [Answered(tuple(completions), version.number) for completions in found]

    def _check(self, version: Version) -> None:
        """Raises FettleError where the file is not the one that was written."""
        assert version.file is not None
        if version.checksum is not None and (found := checksum_of(version.file)) != version.checksum:
            raise FettleError(
                f"{version.file} has the checksum {found:08x}, and was written with {version.checksum:08x}"
            )

    def _difference(self, version: Version) -> float:
        probe = version.probe
        if probe is None:
            return 0.0
        found = self._engine.score(probe.texts, POLICY if version.is_adapter else None)
        pairs = zip(found, probe.logprobs, strict=True)
        return max(abs(mine - theirs) for one, other in pairs for mine, theirs in zip(one, other, strict=True))
