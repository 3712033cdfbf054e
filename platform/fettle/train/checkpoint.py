"""Checkpoints inside a stage: written beside, fenced, renamed when complete; a torn one is never taken."""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from fettle.artifact import is_artifact, sync_folder, sync_path
from fettle.errors import FettleError

_MARK = "complete.json"


@dataclass(frozen=True)
class Fence:
    """The run's epoch token. A restart writes a new one, and writers of the old epoch may not commit any more."""

    file: Path
    token: str

    def check(self) -> None:
        """Raises FettleError if a later run has taken over the folder."""
        if self.file.read_text(encoding="utf-8") != self.token:
            raise FettleError(f"another run has taken over {self.file.parent}; this one stops writing")


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one stage, `step-N` folders; `fingerprint` is the stage's."""

    folder: Path
    fingerprint: str
    keep: int
    fence: Fence

    @property
    def partial(self) -> Path:
        """Where a checkpoint is being written."""
        return self.folder / f".partial-{self.fence.token}"

    def commit(self, written: Path, step: int, and_keep: int | None = None) -> None:
        """Makes the folder `written` the checkpoint of `step`, and drops all but the newest `keep` complete ones and
        that of step `and_keep`."""
        sizes = {f.relative_to(written).as_posix(): f.stat().st_size for f in written.rglob("*") if f.is_file()}
        mark = {"step": step, "fingerprint": self.fingerprint, "sizes": sizes}
        (written / _MARK).write_text(json.dumps(mark), encoding="utf-8")
        sync_folder(written)
        self.fence.check()
        target = self.path(step)
        shutil.rmtree(target, ignore_errors=True)
        os.rename(written, target)
        sync_path(self.folder)
        for old in self.complete()[: -self.keep]:
            if old != and_keep:
                shutil.rmtree(self.path(old))

    def latest(self) -> tuple[int, Path] | None:
        """(step, folder) of the newest complete checkpoint of this very stage."""
        steps = self.complete()
        return (steps[-1], self.path(steps[-1])) if steps else None

    def complete(self) -> list[int]:
        """Steps of the complete checkpoints, oldest first."""
        steps = [int(folder.name.removeprefix("step-")) for folder in self.folder.glob("step-*")]
        return sorted(step for step in steps if self._is_complete(step))

    def clear(self) -> None:
        """Removes them all: the stage's artifact is there."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def path(self, step: int) -> Path:
        """Where the checkpoint of a step lies."""
        return self.folder / f"step-{step:08d}"

    def _is_complete(self, step: int) -> bool:
        folder = self.path(step)
        try:
            mark = json.loads((folder / _MARK).read_text(encoding="utf-8"))
            sizes_hold = all((folder / name).stat().st_size == size for name, size in mark["sizes"].items())
        except (OSError, ValueError, KeyError):
            return False
        return sizes_hold and mark["fingerprint"] == self.fingerprint


def wait_for(artifact: Path, fence: Fence) -> None:
    """Until rank 0 has written the artifact. No collective: a large model may take longer than their time-out."""
    while not is_artifact(artifact):
        fence.check()
        time.sleep(0.1)
