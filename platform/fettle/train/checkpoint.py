"""Checkpoints inside a stage: written beside, fenced, renamed when complete; a torn one is never taken."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from fettle.artifact import digest_file, is_artifact, sync_folder, sync_path
from fettle.errors import FettleError

_MARK = "complete.json"
_PARTIAL = ".partial-"
_DROPPED = ".dropped-"


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

    def partial(self, step: int, attempt: str) -> Path:
        """Where the checkpoint of a step is being written by the workers that began together as `attempt`."""
        return self.folder / f"{_PARTIAL}{self.fence.token}-{attempt}-{step:08d}"

    def commit(
        self, written: Path, step: int, and_keep: int | None = None, summed: Mapping[str, str] | None = None
    ) -> None:
        """Makes the folder `written` the checkpoint of `step`, and drops all but the newest `keep` complete ones and
        that of step `and_keep`. summed: the sha256 of files, by name, whose writers have told it."""
        files = {file.relative_to(written).as_posix(): file for file in written.rglob("*") if file.is_file()}
        known = dict(summed or {})
        mark = {
            "step": step,
            "fingerprint": self.fingerprint,
            "sizes": {name: file.stat().st_size for name, file in files.items()},
            "sha256": {name: digest_file(file) for name, file in files.items() if name not in known} | known,
        }
        (written / _MARK).write_text(json.dumps(mark), encoding="utf-8")
        sync_folder(written)
        self.fence.check()
        target = self.path(step)
        self._drop(target)
        os.rename(written, target)
        sync_path(self.folder)
        for old in self.complete()[: -self.keep]:
            if old != and_keep:
                self._drop(self.path(old))

    def latest(self, say: Callable[[str], None] | None = None) -> tuple[int, Path] | None:
        """(step, folder) of the newest complete checkpoint of this very stage, each byte of which is as it was written.

        say: told of every newer one, and why it is not taken.
        """
        for step in sorted(self._steps(), reverse=True):
            reason = self._why_torn(step) or self._why_changed(step)
            if reason is None:
                return step, self.path(step)
            if say is not None:
                say(f"the checkpoint of step {step:,} is not taken: {reason}")
        return None

    def complete(self) -> list[int]:
        """Steps of the complete checkpoints, oldest first; their contents are not read."""
        return sorted(step for step in self._steps() if self._why_torn(step) is None)

    def adopt(self, other: Path, step: int) -> None:
        """Makes a complete checkpoint of another stage this stage's own checkpoint of `step`."""
        partial = self.partial(step, "adopted")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(other, partial, ignore=shutil.ignore_patterns(_MARK))
        self.commit(partial, step)

    def drop(self, step: int) -> None:
        """Removes the checkpoint of a step."""
        self._drop(self.path(step))

    def sweep(self) -> None:
        """Removes what writers that were killed have left half-written, or half-removed."""
        for left in self.folder.glob(".*"):
            if left.name.startswith((_PARTIAL, _DROPPED)):
                shutil.rmtree(left, ignore_errors=True)

    def clear(self) -> None:
        """Removes them all: the stage's artifact is there."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def path(self, step: int) -> Path:
        """Where the checkpoint of a step lies."""
        return self.folder / f"step-{step:08d}"

    def _steps(self) -> list[int]:
        return [int(folder.name.removeprefix("step-")) for folder in self.folder.glob("step-*")]

    def _drop(self, folder: Path) -> None:
        """Removes a checkpoint: under its name it is there whole, or not at all."""
        if folder.exists():
            dropped = self.folder / f"{_DROPPED}{self.fence.token}-{folder.name}"
            shutil.rmtree(dropped, ignore_errors=True)
            os.rename(folder, dropped)
            shutil.rmtree(dropped, ignore_errors=True)

    def _why_torn(self, step: int) -> str | None:
        """Why the checkpoint is none that was written to its end by this stage; None where it is."""
        folder = self.path(step)
        try:
            mark = json.loads((folder / _MARK).read_text(encoding="utf-8"))
            sizes, fingerprint = mark["sizes"], mark["fingerprint"]
        except (OSError, ValueError, LookupError, TypeError):
            return f"it has no readable {_MARK}, which is written last"
        if fingerprint != self.fingerprint:
            return f"another stage has written it (fingerprint {fingerprint[:12]}, not {self.fingerprint[:12]})"
        for name, size in sizes.items():
            file = folder / name
            if not file.is_file():
                return f"{name} is missing"
            if file.stat().st_size != size:
                return f"{name} has {file.stat().st_size:,} bytes, and was written with {size:,}"
        return None

    def _why_changed(self, step: int) -> str | None:
        """Why a checkpoint that is complete is not the one that was written; None where it is."""
        folder = self.path(step)
        digests = json.loads((folder / _MARK).read_text(encoding="utf-8")).get("sha256", {})
        # Many files of many workers: one after the other, a 70B's 847 GB take half an hour.
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            found = threads.map(lambda name: digest_file(folder / name), digests)
            for (name, digest), now in zip(digests.items(), found, strict=True):
                if now != digest:
                    threads.shutdown(cancel_futures=True)
                    return f"{name} has other bytes than were written (its sha256 differs)"
        return None


def wait_for(artifact: Path, fence: Fence) -> None:
    """Until rank 0 has written the artifact. No collective: a large model may take longer than their time-out."""
    while not is_artifact(artifact):
        fence.check()
        time.sleep(0.1)
