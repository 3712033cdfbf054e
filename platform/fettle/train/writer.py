"""Checkpoints written while training goes on: copied in the step's pause, written and summed up by a thread."""

from __future__ import annotations

import json
import random
import shutil
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from fettle.artifact import digest_file, replace_text, sync_path
from fettle.errors import FettleError
from fettle.train.checkpoint import Checkpoints
from fettle.train.shares import Share
from fettle.train.state import Plain, Stored, snapshot

_POLL_S = 0.05
_LEARNED = "learned-{:05d}.safetensors"
_TOLD = "worker-{:05d}.json"
_RANDOM = "random-{:05d}.safetensors"


class CheckpointWriter:
    """Of one worker of `world`; rank 0's makes the checkpoint, once all others have written theirs.

    attempt: the same on all workers that began together, and on no others. At most one checkpoint is being written: the
    next waits for it.
    """

    def __init__(self, checkpoints: Checkpoints, attempt: str, rank: int, world: int) -> None:
        self.checkpoints, self.attempt, self.rank, self.world = checkpoints, attempt, rank, world
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def folder(self, step: int) -> Path:
        """Where the checkpoint of a step is being written; it is there. Waits for the one before."""
        self.wait()
        folder = self.checkpoints.partial(step, self.attempt)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def write(self, step: int, shares: Sequence[Share], state: Any, and_keep: int | None = None) -> None:
        """Copies what is to be written of a step, and has it written. and_keep: the step of another checkpoint that is
        to stay. Raises what has kept the one before from being written."""
        folder = self.folder(step)
        tensors, plain = snapshot(shares, state, self.rank, self.world)
        randoms, told = _randomness()
        self._thread = threading.Thread(
            target=self._written,
            args=(step, folder, tensors, randoms, {"world": self.world, "state": plain, "random": told}, and_keep),
            name=f"checkpoint-{step}",
            daemon=True,
        )
        self._thread.start()

    def wait(self) -> None:
        """Until nothing is being written. Raises what has kept it from being written."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def close(self) -> None:
        """Waits, whatever became of it."""
        if self._thread is not None:
            self._thread.join()
        self._thread, self._failure = None, None

    def _written(
        self,
        step: int,
        folder: Path,
        tensors: dict[str, torch.Tensor],
        randoms: dict[str, torch.Tensor],
        told: dict[str, Any],
        and_keep: int | None,
    ) -> None:
        try:
            sums = {}
            for name, content in ((_LEARNED, tensors), (_RANDOM, randoms)):
                file = folder / name.format(self.rank)
                save_file(content, file)
                sync_path(file)
                sums[file.name] = digest_file(file)  # each its own: one for all would take half an hour of 70B's
            # The last, for rank 0 waits for it.
            replace_text(folder / _TOLD.format(self.rank), json.dumps(told | {"sha256": sums}))
            if self.rank == 0:
                self._wait_for_others(folder)
                self.checkpoints.commit(folder, step, and_keep, self._summed(folder))
        except (OSError, SafetensorError) as error:
            shutil.rmtree(folder, ignore_errors=True)
            before = max(self.checkpoints.complete(), default=None)
            self._failure = FettleError(
                f"the checkpoint of step {step:,} could not be written: {getattr(error, 'strerror', None) or error}"
                f" ({self.checkpoints.folder}); "
                + ("none is there" if before is None else f"that of step {before:,} is there")
            )
        except BaseException as error:
            self._failure = error

    def _wait_for_others(self, folder: Path) -> None:
        for rank in range(1, self.world):
            while not (folder / _TOLD.format(rank)).is_file():
                self.checkpoints.fence.check()
                time.sleep(_POLL_S)

    def _summed(self, folder: Path) -> dict[str, str]:
        """What the workers have summed up."""
        found: dict[str, str] = {}
        for rank in range(self.world):
            found |= json.loads((folder / _TOLD.format(rank)).read_text(encoding="utf-8"))["sha256"]
        return found


class Written:
    """A checkpoint's contents, for one worker of any number."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.world = int(self._told(0)["world"])
        self.stored = Stored([folder / _LEARNED.format(rank) for rank in range(self.world)])

    def plain(self) -> Plain:
        """What the optimizer kept beside tensors."""
        found: Plain = {}
        for rank in range(self.world):
            found |= self._told(rank)["state"]
        return found

    def restore_randomness(self, rank: int, world: int) -> None:
        """The generators as they were on this worker. With another number of workers each draws on from numbers of its
        own: what they drew, dropout's masks and noise, went with their shares of the data, which are others now."""
        if world == self.world:
            _restore(load_file(self.folder / _RANDOM.format(rank)), self._told(rank)["random"])
            return
        first = load_file(self.folder / _RANDOM.format(0))["cpu"].numpy().tobytes()
        seed = int(np.random.default_rng([*first[-64:], world, rank]).integers(2**31))
        random.seed(seed)
        np.random.seed(seed)  # libraries draw from it
        torch.manual_seed(seed)

    def _told(self, rank: int) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / _TOLD.format(rank)).read_text(encoding="utf-8"))
        return found


def _randomness() -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """torch's generators, and those of Python and numpy, in words."""
    tensors = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["cuda"] = torch.cuda.get_rng_state()
    version, numbers, gauss = random.getstate()
    state: Any = np.random.get_state()
    kind, keys, at, has_gauss, cached = state
    numpy_told = [kind, keys.tolist(), at, has_gauss, cached]
    return tensors, {"python": [version, list(numbers), gauss], "numpy": numpy_told}


def _restore(tensors: dict[str, torch.Tensor], told: dict[str, Any]) -> None:
    torch.set_rng_state(tensors["cpu"])
    if "cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["cuda"])
    version, numbers, gauss = told["python"]
    random.setstate((version, tuple(numbers), gauss))
    kind, keys, at, has_gauss, cached = told["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), at, has_gauss, cached))
