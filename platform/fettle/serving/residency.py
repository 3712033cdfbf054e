"""Which published versions a replica's engine holds, and what each name means to a new request.

A version is loaded beside those that answer, and names are pointed at it only then; what no name means any more leaves
when its last request has ended. Requests that run keep the version they began with.

All of it happens on one event loop. What is looked at and what is changed for it lie between two awaits.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from fettle.data.neutral import Neutral
from fettle.errors import UserError
from fettle.registry.folder import FolderRegistry, Version
from fettle.registry.reference import Reference
from fettle.serving.copies import own_folder
from fettle.serving.resident import NoRoom, NotPublished, Resident, copy
from fettle.serving.resolve import ServedAdapter

if TYPE_CHECKING:  # it imports vLLM, which the driver has no use for
    from fettle.engine.adapters import Adapters
    from fettle.serving.metrics import AdapterMetrics

_FILES_STAY_S = 60.0  # vLLM reads what it has put aside again, and the whole engine dies where it is gone
_UNMEANT_STAY_S = 10.0  # since the last request to a version that no alias points at
_FULL = "all {} places for adapters are taken by running requests and pinned adapters"
_ENGINE_AGAIN_S = 30.0  # until a version that the engine did not load is tried again: it may have lacked memory

Admit = Callable[[str, Path], ServedAdapter]
"""Of a version's id and its files what requests to it need; raises UserError for one that the engine shall not see."""
NeutralOf = Callable[[str | None], Neutral]
"""Of an adapter's own chat template, where it has one, what breaks control tokens' names."""

logger = logging.getLogger(__name__)


class Residency:
    """Of one replica, on its event loop. most: versions that are held at a time."""

    def __init__(
        self,
        registry: FolderRegistry,
        adapters: Adapters,
        admit: Admit,
        neutral_of: NeutralOf,
        *,
        most: int,
        metrics: AdapterMetrics | None = None,
    ) -> None:
        self._registry, self._adapters, self._admit, self._neutral_of = registry, adapters, admit, neutral_of
        self._most, self._folder = most, own_folder("fettle-adapters-")
        self._state: dict[str, dict[str, Version]] = {}  # as the registry has it
        self._means: dict[str, dict[str, Version]] = {}  # as it is here, where versions have to be loaded first
        self._held: dict[str, Resident] = {}
        self._coming: set[str] = set()  # ids that have a place and are not held yet
        self._loading: dict[str, asyncio.Task[None]] = {}
        self._moving: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._refused: dict[tuple[str, str], tuple[str, float]] = {}  # by id and digest: why, and until when
        self._left: deque[tuple[float, Path]] = deque()
        self._said: set[str] = set()
        self._metrics, self._pinned = metrics, set[str]()

    @property
    def means(self) -> dict[str, dict[str, int]]:
        """Name to alias to number: what new requests get."""
        return {
            name: {alias: version.number for alias, version in aliases.items()} for name, aliases in self._means.items()
        }

    @property
    def names(self) -> Collection[str]:
        """All that mean something, as they are now."""
        return self._means.keys()

    async def refresh(self) -> None:
        """Looks at what the registry says by now. Names move at once to versions that are held, and otherwise once
        those are loaded (see `settled`); a version that is refused changes nothing. Raises OSError where the registry
        is not there any more."""
        state = await asyncio.to_thread(self._registry.state, "adapter")
        if not state and self._means and not self._registry.is_there:
            raise OSError(f"there is no registry in {self._registry.root} any more")
        self._pinned = await asyncio.to_thread(self._registry.pinned)
        for name in {*self._state, *self._means} - set(state):
            self._state.pop(name, None)
            self._means.pop(name, None)
        for name, aliases in sorted(state.items(), key=lambda one: one[0] not in self._pinned):
            if aliases is None:
                self._say_once(f"the files of '{name}' in the registry cannot be read; it means what it meant")
                continue
            self._state[name] = aliases
            mine = self._means.setdefault(name, {})
            for alias in set(mine) - set(aliases):
                del mine[alias]
            for alias, version in aliases.items():
                lacks = name in self._pinned and not self._is_held(version) and self._has_room
                if (mine.get(alias) != version or lacks) and (name, alias) not in self._moving:
                    self._move(name, alias, version)
        await self._tidy()

    async def settled(self) -> None:
        """Once all names have moved that were about to."""
        while self._moving:
            await asyncio.wait(list(self._moving.values()))

    async def acquire(self, wanted: Reference) -> Resident:
        """What answers a request to `wanted`, held until `release`; loaded where it is not. Raises NotPublished,
        NoRoom, OSError, or UserError where the version is refused."""
        resident = await self._ensured(await self._version(wanted))
        resident.running += 1
        resident.used = time.monotonic()
        return resident

    def release(self, resident: Resident) -> None:
        """The request has ended."""
        resident.running -= 1
        resident.used = time.monotonic()

    def close(self) -> None:
        """Removes the copies."""
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _version(self, wanted: Reference) -> Version:
        aliases = self._means.get(wanted.name)
        if aliases is None:
            raise NotPublished(f"nothing is published as '{wanted.name}'")
        if wanted.number is not None:
            if (held := self._held.get(str(wanted))) is not None:
                return held.version
            try:
                return await asyncio.to_thread(self._registry.find, wanted)
            except UserError as error:
                raise NotPublished(error.got) from None
        alias = str(wanted.alias)
        if alias in aliases:
            return aliases[alias]
        if (version := self._state.get(wanted.name, {}).get(alias)) is not None:
            return version  # not here yet, or refused, which is told
        there = ", ".join(f"{wanted.name}@{alias}" for alias in sorted(aliases)) or "none"
        raise NotPublished(f"'{wanted.name}' has no version in {wanted.alias}; there is {there}")

    def _move(self, name: str, alias: str, version: Version) -> None:
        if self._is_held(version):
            self._means[name][alias] = version
            return
        task = asyncio.create_task(self._moved(name, alias, version))
        self._moving[name, alias] = task
        task.add_done_callback(lambda _: self._moving.pop((name, alias), None))

    async def _moved(self, name: str, alias: str, version: Version) -> None:
        """Loads a version and lets the alias mean it, if it still is to. With no room, and nobody asking for the name,
        it is only looked at."""
        try:
            is_first = name in self._pinned or any(one.version.name == name for one in self._held.values())
            pinned = [task for (other, _), task in self._moving.items() if other in self._pinned]
            if pinned and not is_first:
                await asyncio.wait(pinned)  # the places are theirs, however long their files take to copy
            if is_first or len(self._held) + len(self._coming) < self._most:
                await self._ensured(version)
            else:
                await self._looked_at(version)
        except Exception as error:  # whatever it is, what the name means stays
            reason = error.got if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            self._say_once(f"{version.id} is not loaded: {reason}")
            return
        if self._state.get(name, {}).get(alias) == version and name in self._means:
            self._means[name][alias] = version

    def _is_held(self, version: Version) -> bool:
        held = self._held.get(version.id)
        return held is not None and held.version.digest == version.digest

    async def _ensured(self, version: Version) -> Resident:
        """The version, loaded once, however many wait for it; nothing is awaited between its being held and the end."""
        while not self._is_held(version):
            self._raise_refused(version)
            task = self._loading.get(version.id)
            if task is None:
                task = self._loading[version.id] = asyncio.create_task(self._load(version))
                task.add_done_callback(lambda done: done.cancelled() or done.exception())  # somebody may have left
            await asyncio.shield(task)
        return self._held[version.id]

    async def _load(self, version: Version) -> None:
        folder, began, outcome = self._place_for(version), time.monotonic(), "failed"
        try:
            if not self._has_room:
                raise NoRoom(_FULL.format(self._most))
            served, neutral = await asyncio.to_thread(self._copied, version, folder)
            await self._take_place(version.id)
            try:
                await self._adapters.put(version.id, folder)
            except UserError as error:
                self._refuse(version, error.got, time.monotonic() + _ENGINE_AGAIN_S)
                raise
            self._held[version.id] = Resident(version, folder, served.defaults, neutral, used=time.monotonic())
            outcome = "loaded"
        except BaseException as error:
            outcome = "refused" if isinstance(error, UserError) else "failed"
            await asyncio.to_thread(shutil.rmtree, folder, True)
            raise
        finally:
            self._coming.discard(version.id)
            del self._loading[version.id]
            if self._metrics is not None:
                self._metrics.loaded(version.name, outcome, time.monotonic() - began)
                self._metrics.held(len(self._held))

    async def _looked_at(self, version: Version) -> None:
        self._raise_refused(version)
        folder = self._place_for(version)
        try:
            await asyncio.to_thread(self._copied, version, folder)
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, True)

    def _place_for(self, version: Version) -> Path:
        return self._folder / f"{version.name}-{version.number}-{time.monotonic_ns()}"

    def _copied(self, version: Version, folder: Path) -> tuple[ServedAdapter, Neutral]:
        try:
            copy(version, folder)
            served = self._admit(version.id, folder)
            return served, self._neutral_of(served.defaults.get("chat_template"))
        except UserError as error:
            self._refuse(version, error.got, float("inf"))
            raise

    def _refuse(self, version: Version, why: str, until: float) -> None:
        self._refused[version.id, version.digest] = why, until

    def _raise_refused(self, version: Version) -> None:
        why, until = self._refused.get((version.id, version.digest), ("", 0.0))
        if time.monotonic() < until:
            raise UserError(why)

    async def _take_place(self, id: str) -> None:
        """Versions that have not been asked for for the longest time make room, and other files by the same id."""
        out = [self._held[id]] if id in self._held else []
        if out and out[0].running:
            raise NoRoom(f"{id} was published anew, and the one before still answers")
        idle = [one for one in self._idle if one not in out]
        missing = len(self._held) - len(out) + len(self._coming) + 1 - self._most
        if missing > len(idle):
            raise NoRoom(_FULL.format(self._most))
        out += idle[: max(0, missing)]
        for one in out:
            del self._held[one.version.id]
        self._coming.add(id)
        await self._drop(out)

    @property
    def _idle(self) -> list[Resident]:
        """What may make room, the one first that has not been asked for for the longest time."""
        pinned = {version.id for name in self._pinned for version in self._means.get(name, {}).values()}
        may = [one for id, one in self._held.items() if not one.running and id not in pinned]
        return sorted(may, key=lambda one: one.used)

    @property
    def _has_room(self) -> bool:
        return len(self._held) + len(self._coming) < self._most or bool(self._idle)

    async def _drop(self, out: Iterable[Resident]) -> None:
        """Has the engine forget versions that are not held any more."""
        for one in out:
            try:
                await self._adapters.remove(one.version.id)
            finally:
                self._left.append((time.monotonic(), one.folder))
                if self._metrics is not None:
                    self._metrics.dropped(one.version.name)
                    self._metrics.held(len(self._held))

    async def _tidy(self) -> None:
        """Drops versions that an alias has left and nobody uses any more, and files that nobody reads any more."""
        meant = {version.id for aliases in self._means.values() for version in aliases.values()}
        now = time.monotonic()
        out = [
            one
            for id, one in self._held.items()
            if id not in meant and not one.running and now - one.used > _UNMEANT_STAY_S
        ]
        for one in out:
            del self._held[one.version.id]
        await self._drop(out)
        while self._left and time.monotonic() - self._left[0][0] > _FILES_STAY_S:
            await asyncio.to_thread(shutil.rmtree, self._left.popleft()[1], True)

    def _say_once(self, what: str) -> None:
        if what not in self._said and len(self._said) < 1000:
            self._said.add(what)
            logger.error(what)
