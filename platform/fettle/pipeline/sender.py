"""A run's folder, sent to its storage: every stage's artifact, or its checkpoints with what lies beside them, and what
is of no stage. Light: no torch."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fettle.artifact import MANIFEST, is_artifact
from fettle.pipeline.storage import FOLDER, MARK, OF_NO_STAGE, Gone, Listing, Sent, Storage, digest_head, place_of

_REST_S, _EPOCH_S = 60.0, 5.0
_SENT_AT_ONCE = 4  # files
# What is made again wherever the run goes on, and what is of this machine alone.
_NOT_SENT = ("tokens", "bases", "logs", "ray", "stages", "artifacts", "run.json")
_NOT_SENT_BELOW = ("checkpoints", "answers")  # of a stage: the one is sent by itself, the other is encoded data


class TakenOver(Exception):
    """Another run may write there now."""


class Sender:
    """Of one run's folder. heard: called again and again while something is being sent."""

    def __init__(self, storage: Storage, out: Path, token: str, heard: Callable[[], None] = lambda: None) -> None:
        self.storage, self.out, self.token, self.heard = storage, out, token, heard
        self._listings: dict[str, Listing] = {}
        self._states: dict[str, tuple[bool, tuple[str, ...]]] = {}  # of each stage, when it was sent
        self._checked_at = self._rest_at = -1e9
        shutil.rmtree(out / FOLDER / "held", ignore_errors=True)

    def send(self, is_over: bool) -> None:
        """Sends what is new. is_over: the run does not go on, and this is all. Raises OSError where storage does not
        take it, and TakenOver."""
        self._check(now=True)
        is_new = False
        for label in self._labels():
            with suppress(Gone):  # the run went on meanwhile, and what it has come to is looked at the next time
                is_new |= self._stage(label, is_over)
        if is_over or is_new or time.monotonic() - self._rest_at > _REST_S:
            with suppress(Gone):
                self._rest()
            self._rest_at = time.monotonic()

    def _labels(self) -> list[str]:
        folders = [*(self.out / "artifacts").glob("[!.]*"), *(self.out / "stages").glob("[!.]*")]
        return list(dict.fromkeys(folder.name for folder in folders))

    def _stage(self, label: str, is_over: bool) -> bool:
        """Sends a stage's artifact, or its checkpoints, after what lies beside them; whether there was anything new."""
        artifact, folder = self.out / "artifacts" / label, self.out / "stages" / label
        is_done = is_artifact(artifact)
        steps = () if is_done else _steps(folder / "checkpoints")
        state = (is_done, steps)
        if not (is_done or steps) or (state == self._states.get(label) and not is_over):
            return False
        listing = self._listing(label)
        came_to, is_there = listing.steps(), listing.below(f"artifacts/{label}")
        if not is_done and (is_there or max(came_to, default="") > max(steps, default="")):
            return False  # another machine came further; a run of this stage would have taken it up
        with self._held(folder, steps) as held:
            beside = self._beside(label, folder)  # after them: what they need is there
            groups = {f"artifacts/{label}": artifact} if is_done else {}
            groups |= {f"stages/{label}/checkpoints/{step}": source for step, source in held.items()}
            whole: dict[str, Sent] = {}
            for name, source in groups.items():
                whole |= self._group(label, name, source)
                if len(groups) > 1:  # the next may take long
                    self._list(label, beside | _immutable(self._listing(label)) | whole)
        if not whole:
            return False
        self._list(label, beside | whole)
        if label not in self._states:
            self._sweep(label)
        self._states[label] = state
        return True

    def _group(self, label: str, name: str, source: Path) -> dict[str, Sent]:
        """Sends an artifact or a checkpoint, its mark last; empty where its files are not those that were written."""
        files = {f"{name}/{file.relative_to(source).as_posix()}": file for file in _files(source)}
        known = {path: sent for path, file in files.items() if (sent := self._same(path, file))}
        before = self._listing(label).below(name)
        if len(known) < len(files) and before:
            if self._is_same_artifact(name, source):
                return before
            # Their names are the same, so that what was there is not whole from now on.
            self._list(label, {p: sent for p, sent in self._listing(label).files.items() if p not in before})
            known = {}
        new = [path for path in files if path not in known]
        marks = [path for path in new if path.rpartition("/")[2] in (MARK, MANIFEST)]
        added = self._send({path: files[path] for path in new if path not in marks})
        there = {path.removeprefix(f"{name}/"): one.sha256 for path, one in (known | added).items()}
        written = _read(source / MARK).get("sha256", {})
        if any(there.get(file) != digest for file, digest in written.items()):
            return {}
        return known | added | self._send({path: files[path] for path in marks})

    def _is_same_artifact(self, name: str, source: Path) -> bool:
        """Whether the artifact that is there is this one, whose base lay elsewhere."""
        here = _read(source / MANIFEST).get("digest")
        return here is not None and here == json.loads(self.storage.read(f"{name}/{MANIFEST}") or b"{}").get("digest")

    def _beside(self, label: str, folder: Path) -> dict[str, Sent]:
        """Sends what else lies in a stage's folder, each content under a name of its own."""
        files = _files(folder, _NOT_SENT_BELOW)
        return self._loose({f"stages/{label}/{file.relative_to(folder).as_posix()}": file for file in files})

    def _rest(self) -> None:
        """Sends what is of no stage: evaluations, answers, the report, what the tracker knows the folder by."""
        files = {file.relative_to(self.out).as_posix(): file for file in _files(self.out, _NOT_SENT)}
        mine = {path: file for path, file in files.items() if not path.startswith("tracking/") or path == "tracking/id"}
        before = self._listing(OF_NO_STAGE).files
        if (now := self._loose(mine)) != before:
            self._list(OF_NO_STAGE, now)

    def _loose(self, files: Mapping[str, Path]) -> dict[str, Sent]:
        found, new = {}, {}
        for path, file in files.items():
            with suppress(Gone):
                if sent := self._same(path, file):
                    found[path] = sent
                else:
                    new[path] = file
        return found | self._send(new)

    def _same(self, path: str, file: Path) -> Sent | None:
        """What is there of a file, where it is this very content."""
        label = path.split("/")[1] if path.startswith(("stages/", "artifacts/")) else OF_NO_STAGE
        sent, state = self._listing(label).files.get(path), _state(file)
        if sent is None or sent.size != state.st_size:
            return None
        if sent.changed != state.st_mtime_ns and digest_head(file, sent.size) != sent.sha256:
            return None
        return Sent(sent.size, state.st_mtime_ns, sent.sha256)

    def _send(self, files: Mapping[str, Path]) -> dict[str, Sent]:
        with ThreadPoolExecutor(_SENT_AT_ONCE) as pool:
            waiting = {path: pool.submit(self._send_file, path, file) for path, file in files.items()}
            try:
                found = {path: one.result() for path, one in waiting.items()}
            finally:
                pool.shutdown(cancel_futures=True)
        return {path: sent for path, sent in found.items() if sent is not None}

    def _send_file(self, path: str, file: Path) -> Sent | None:
        """Sends a file; None where a file of a stage under way went, or became another, meanwhile."""
        state = _state(file)
        if place_of(path, Sent(0, 0, "")) == path:
            return Sent(state.st_size, state.st_mtime_ns, self.storage.send(file, path, state.st_size, self._check))
        sent = Sent(state.st_size, state.st_mtime_ns, digest_head(file, state.st_size))
        is_as_said = self.storage.send(file, place_of(path, sent), sent.size, self._check) == sent.sha256
        return sent if is_as_said else None

    @contextmanager
    def _held(self, folder: Path, steps: tuple[str, ...]) -> Iterator[dict[str, Path]]:
        """The checkpoints as hard links, which stay while they are sent, however slowly, and the run drops them."""
        into, held = self.out / FOLDER / "held" / folder.name, dict[str, Path]()
        try:
            for step in steps:
                source = folder / "checkpoints" / step
                with suppress(FileNotFoundError):  # dropped already
                    held[step] = _linked(source, into / step)
            yield held
        finally:
            shutil.rmtree(into, ignore_errors=True)

    def _listing(self, label: str) -> Listing:
        if label not in self._listings:
            self._listings[label] = self.storage.listing(label) or Listing(str(self.out))
        return self._listings[label]

    def _list(self, label: str, files: Mapping[str, Sent]) -> None:
        """Says what is there whole, and then removes what is so no more."""
        before, listing = self._listing(label), Listing(str(self.out), dict(files))
        if listing == before:
            return
        self._check(now=True)
        self.storage.write_listing(label, listing)
        self._listings[label] = listing
        self.storage.delete(before.places() - listing.places())

    def _sweep(self, label: str) -> None:
        """Removes what uploads that were broken off have left."""
        found = {*self.storage.names(f"stages/{label}"), *self.storage.names(f"artifacts/{label}")}
        self.storage.delete(found - self._listing(label).places())

    def _check(self, now: bool = False) -> None:
        """Raises TakenOver where another run may write there now."""
        self.heard()
        if not now and time.monotonic() - self._checked_at < _EPOCH_S:
            return
        epoch = self.storage.epoch()
        if epoch is None:
            raise TakenOver("what says who may write there is gone")
        if epoch["token"] != self.token:
            raise TakenOver(f"another run, on {epoch['host']} in {epoch['out']}, has taken it over")
        self._checked_at = time.monotonic()


def _immutable(listing: Listing) -> dict[str, Sent]:
    return {path: sent for path, sent in listing.files.items() if place_of(path, sent) == path}


def _read(mark: Path) -> dict[str, Any]:
    """What a mark says; nothing where there is none that can be read."""
    try:
        return dict(json.loads(mark.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return {}


def _steps(checkpoints: Path) -> tuple[str, ...]:
    """Names of the complete checkpoints, the oldest first."""
    try:
        names = os.listdir(checkpoints)
    except FileNotFoundError:
        return ()
    return tuple(sorted(name for name in names if name.startswith("step-") and (checkpoints / name / MARK).is_file()))


def _files(folder: Path, without: tuple[str, ...] = ()) -> list[Path]:
    """Every file in the folder, but for what is called so at its top, and what has a name that begins with a dot."""
    found = []
    for at, folders, names in os.walk(folder):  # which minds no folder that is removed meanwhile
        here = [name for name in (*folders, *names) if name[0] != "." and (at != str(folder) or name not in without)]
        folders[:] = [name for name in folders if name in here]
        found += [Path(at) / name for name in names if name in here]
    return sorted(found)


def _state(file: Path) -> os.stat_result:
    try:
        return file.stat()
    except FileNotFoundError:
        raise Gone(file.name) from None


def _linked(source: Path, to: Path) -> Path:
    """A folder of hard links to the files of another; that one itself where there are no hard links."""
    for file in _files(source):
        link = to / file.relative_to(source)
        link.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(file, link)
        except FileNotFoundError:
            raise
        except OSError:
            return source
    if not (to / MARK).is_file():
        raise FileNotFoundError(source)
    return to
