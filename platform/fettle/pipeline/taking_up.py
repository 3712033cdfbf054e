"""What a run's storage holds, taken up by the driver before anything starts: on a new machine the run goes on from
there. One run may write to storage at a time, the one that came last."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from threading import Event

from fettle.artifact import MANIFEST, read_artifact, replace_text, sync_folder, sync_path
from fettle.errors import DoesNotFit, FettleError, UserError
from fettle.pipeline.planned import Planned, PlannedLearning
from fettle.pipeline.storage import (
    ENDED,
    EPOCH,
    FOLDER,
    OF_NO_STAGE,
    Listing,
    Sent,
    Storage,
    Torn,
    is_denied,
    place_of,
    reason_of,
)
from fettle.recipe import Recipe
from fettle.train.checkpoint import Checkpoints, Fence

RECORD = "run.json"
"""In OUT/.storage: which run last wrote to storage from here, and where that is."""
_FETCHED_AT_ONCE = 4  # files
_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")


def take_up(recipe: Recipe, stages: Sequence[Planned], out: Path, fence: Fence) -> bool:
    """Makes this the run that may write to the recipe's storage, and fetches what is there of its stages and not here:
    artifacts, and of a stage under way the newest checkpoint. Whether there was anything.

    Raises UserError where storage is not there, does not let us in, or holds the run of another recipe; DoesNotFit
    where the disk has no room; FettleError where storage stops answering on the way.
    """
    if recipe.storage is None:
        return False
    storage = _opened(recipe, out, fence.token)
    taker = _Taker(storage, out, fence)
    try:
        was_anything = taker.rest()
        for stage in stages:
            was_anything |= taker.stage(stage)
    except OSError as error:
        raise FettleError(
            f"{storage.said} broke off ({reason_of(error)}); the same command goes on from here"
        ) from error
    finally:
        shutil.rmtree(taker.partial, ignore_errors=True)
    return was_anything


def _opened(recipe: Recipe, out: Path, token: str) -> Storage:
    """The recipe's storage, where `token` may write from now on."""
    assert recipe.storage is not None
    where, uri = recipe.where("storage"), recipe.storage.uri
    without = "or run without it: --set storage=off"
    folder = recipe.resolve(recipe.storage.folder) if recipe.storage.bucket is None else None
    if folder is not None:
        if not folder.is_dir():
            fix = f"make it, or mount what it is on, {without}"
            raise UserError(f"{folder} is not there", **where, expected="a folder that is there", fix=fix)
        if out.is_relative_to(folder / out.name) or (folder / out.name).is_relative_to(out):
            raise UserError(f"{folder} would keep {out} in itself", **where, fix="name a folder on another disk")
    try:
        storage = Storage(recipe.storage, folder, out.name)
        before = storage.epoch()
        if before is not None and before["recipe"] != recipe.name:
            raise UserError(
                f"{storage.said} holds a run of '{before['recipe']}'",
                **where,
                expected="one recipe a place",
                fix="name another folder with --out, or another storage",
            )
        told = {"token": token, "host": socket.gethostname(), "out": str(out), "recipe": recipe.name}
        _tell_of_other(storage, before, out)
        storage.write(EPOCH, json.dumps(told | {"began": time.time()}).encode())
    except (OSError, ValueError, LookupError) as error:
        if not isinstance(error, OSError):
            raise UserError(f"{uri} holds something else than runs", **where, fix="name another storage") from error
        if reason_of(error).startswith("NO_SUCH_BUCKET"):
            bucket = str(recipe.storage.bucket).partition("/")[0]
            fix = f"make it first, or name another, {without}"
            raise UserError(f"there is no bucket '{bucket}'", **where, fix=fix) from error
        if is_denied(error):
            there = any(os.environ.get(key) for key in _KEYS) or Path("~/.aws").expanduser().exists()
            who = "who may read and write there" + ("" if there or folder else "; none is told of here")
            fix = f"AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, say who we are, {without}"
            raise UserError(
                f"{uri} does not let us in ({reason_of(error)})", **where, expected=who, fix=None if folder else fix
            ) from error
        raise UserError(
            f"{uri} does not answer ({reason_of(error)})",
            **where,
            fix=f"see that it is up, and that the address is right (endpoint, AWS_REGION), {without}",
        ) from error
    (out / FOLDER).mkdir(exist_ok=True)
    record = {"storage": recipe.storage.model_dump(), "folder": str(folder) if folder else None, "name": out.name}
    replace_text(out / FOLDER / RECORD, json.dumps(record | {"token": token}))
    return storage


def _tell_of_other(storage: Storage, before: Mapping[str, object] | None, out: Path) -> None:
    """Says that a run elsewhere, which may be under way, loses its storage to this one."""
    if before is None or storage.read(ENDED) == str(before["token"]).encode():
        return
    try:
        ours = json.loads((out / FOLDER / RECORD).read_text(encoding="utf-8"))["token"]
    except (OSError, ValueError, LookupError):
        ours = None
    if before["token"] != ours:  # it was not in this folder, whose lock we have
        began = time.strftime("%Y-%m-%d %H:%M", time.localtime(float(str(before["began"]))))
        _say(
            f"{storage.said} is taken over from {before['host']} ({before['out']}, since {began}), which has not said"
            " that it ended: if it still runs, it sends nothing more"
        )


class _Taker:
    """Fetches into one run's folder. partial: where, until it is whole."""

    def __init__(self, storage: Storage, out: Path, fence: Fence) -> None:
        self.storage, self.out, self.fence, self.partial = storage, out, fence, out / FOLDER / "fetched"
        shutil.rmtree(self.partial, ignore_errors=True)

    def rest(self) -> bool:
        """Fetches evaluations, answers and the like that are not here."""
        listing = self.storage.listing(OF_NO_STAGE)
        if listing is None:
            return False
        return self._loose({path: sent for path, sent in listing.files.items() if not (self.out / path).exists()}, 2)

    def stage(self, stage: Planned) -> bool:
        """Fetches a stage's artifact, or the newest checkpoint that is whole, unless what is here came as far."""
        label = stage.artifact.name
        if stage.is_done:
            return False
        listing = self.storage.listing(label)
        if listing is None:
            self._tell_of_others(stage)
            return False
        artifact = listing.below(f"artifacts/{label}")
        if artifact and self._whole(stage, artifact, stage.artifact, listing):
            return True
        if not isinstance(stage, PlannedLearning):
            return False
        keep = stage.spec.checkpoint.keep
        folder = stage.folder / "checkpoints"
        latest = Checkpoints(folder, stage.fingerprint, keep, self.fence).latest()
        here = latest[1].name if latest else ""
        steps = [step for step in reversed(listing.steps()) if step > here]
        found = False
        for step in steps:
            if not found or stage.spec.num_checkpoints > keep:  # the best is one of the older ones
                files = listing.below(f"stages/{label}/checkpoints/{step}")
                found |= self._whole(stage, files, folder / step, listing)
        return found

    def _tell_of_others(self, stage: Planned) -> None:
        """Says that a stage begins anew although it is there, as another one."""
        pattern = re.compile(rf"sent/({re.escape(stage.spec.name)}-[0-9a-f]{{12}})\.json")
        others = [match[1] for name in self.storage.names("sent") if (match := pattern.fullmatch(name))]
        if others and not stage.folder.exists():
            _say(
                f"{stage.spec.name} is not taken up: {', '.join(sorted(others))} in {self.storage.said} had other"
                " settings, data, versions of libraries, or another kind of processor"
            )

    def _whole(self, stage: Planned, files: dict[str, Sent], to: Path, listing: Listing) -> bool:
        """Fetches an artifact or a checkpoint, with what lies beside it; False where it is torn: it is not taken, and
        not listed any more."""
        name, is_result = stage.spec.name, to == stage.artifact
        what = f"{name}'s result" if is_result else f"{name}'s checkpoint {to.name}"
        size = sum(sent.size for sent in files.values())
        self._check_room(size)
        _say(f"{what} is fetched from {self.storage.said} ({size / 2**20:,.1f} MiB)")
        try:
            self._fetch(files)
            if is_result:
                read_artifact(self.partial / "artifacts" / to.name, verify=True)
        except (Torn, UserError) as error:
            _say(f"{what} is not taken: {error.got if isinstance(error, UserError) else error}")
            listing.files = {path: sent for path, sent in listing.files.items() if path not in files}
            self.storage.write_listing(stage.artifact.name, listing)
            shutil.rmtree(self.partial, ignore_errors=True)
            return False
        self._loose({path: sent for path, sent in listing.files.items() if place_of(path, sent) != path}, 3)
        source = self.partial / to.relative_to(self.out)
        if is_result:
            _moved_base(source, Path(listing.out), self.out)
        sync_folder(source)
        _into_place(source, to)
        return True

    def _loose(self, files: Mapping[str, Sent], depth: int) -> bool:
        """Fetches other files, those together whose paths begin with the same `depth` parts: rollouts, an evaluation.
        Where one of them is torn they are left out."""
        found = False
        for _, group in groupby(sorted(files.items()), key=lambda one: one[0].split("/")[:depth]):
            together = dict(group)
            try:
                self._fetch(together)
            except Torn as error:
                _say(f"{error}; it is left out, and what belongs to it")
                continue
            for path in together:
                _into_place(self.partial / path, self.out / path)
            found = True
        return found

    def _fetch(self, files: Mapping[str, Sent]) -> None:
        """Fetches files into `partial`. Raises Torn."""
        with ThreadPoolExecutor(_FETCHED_AT_ONCE) as pool:
            is_given_up = Event()
            waiting = [
                pool.submit(self.storage.fetch, place_of(path, sent), sent, self.partial / path, is_given_up.is_set)
                for path, sent in files.items()
            ]
            try:
                for one in waiting:
                    one.result()
            finally:
                is_given_up.set()
                pool.shutdown(cancel_futures=True)

    def _check_room(self, wanted: int) -> None:
        free = shutil.disk_usage(self.out).free
        if wanted > free:
            raise DoesNotFit(
                f"{wanted / 2**30:.1f} GiB are to be fetched from {self.storage.said}, {free / 2**30:.1f} GiB are free",
                field="--out",
                fix="make room, or name another folder with --out",
            )


def _moved_base(artifact: Path, there: Path, here: Path) -> None:
    """Has an adapter name its base where it lies now, which was in the folder of the run that made it."""
    file = artifact / MANIFEST
    told = json.loads(file.read_text(encoding="utf-8"))
    base = told["base"] and Path(told["base"]["path"])
    if base and base.is_relative_to(there) and there != here:
        told["base"]["path"] = str(here / base.relative_to(there))
        file.write_text(json.dumps(told, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _into_place(source: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    if to.is_dir():
        shutil.rmtree(to)
    os.replace(source, to)
    sync_path(to.parent)


def _say(text: str) -> None:
    print(f"storage   {text}", flush=True)
