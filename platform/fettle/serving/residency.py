"""Which published versions a replica's engine holds, and what each name means to a new request.

A version is loaded beside those that answer, and names are pointed at it only then; what no name means any more leaves
when its last request has ended. Requests that run keep the version they began with.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fettle.artifact import digest_folder
from fettle.data.neutral import Neutral
from fettle.errors import FettleError, UserError
from fettle.registry.folder import FolderRegistry, Version
from fettle.registry.reference import Reference
from fettle.serving.resolve import ServedAdapter

if TYPE_CHECKING:  # it imports vLLM, which the driver has no use for
    from fettle.engine.adapters import Adapters

# vLLM reads an adapter's files again where it has put it aside, and the whole engine dies where they are gone.
_FILES_STAY_S = 60.0
_UNMEANT_STAY_S = 10.0  # since the last request to a version that no alias points at

Admit = Callable[[str, Path], ServedAdapter]
"""Of a version's id and its files what requests to it need; raises UserError for one that the engine shall not see."""
NeutralOf = Callable[[str | None], Neutral]
"""Of an adapter's own chat template, where it has one, what breaks control tokens' names."""

logger = logging.getLogger(__name__)


class NotPublished(FettleError):
    """A name that means nothing here."""


class NoRoom(FettleError):
    """All places are taken by versions that answer requests."""


@dataclass(eq=False)
class Resident:
    """A version that the engine holds. folder: the replica's own copy of its files. running: requests on it. used: when
    one last began or ended, on the monotonic clock."""

    version: Version
    folder: Path
    defaults: dict[str, Any]
    neutral: Neutral
    running: int = 0
    used: float = 0.0


class Residency:
    """Of one replica, on its event loop. most: versions that are held at a time."""

    def __init__(
        self, registry: FolderRegistry, adapters: Adapters, admit: Admit, neutral_of: NeutralOf, *, most: int
    ) -> None:
        self._registry, self._adapters, self._admit, self._neutral_of = registry, adapters, admit, neutral_of
        self._most = most
        self._folder = Path(tempfile.mkdtemp(prefix="fettle-adapters-"))
        self._state: dict[str, dict[str, int]] = {}  # as the registry has it
        self._means: dict[str, dict[str, int]] = {}  # as it is here, where versions have to be loaded first
        self._held: dict[str, Resident] = {}
        self._loading: dict[str, asyncio.Task[None]] = {}
        self._refused: dict[str, str] = {}
        self._left: deque[tuple[float, Path]] = deque()

    @property
    def means(self) -> dict[str, dict[str, int]]:
        """Name to alias to number: what new requests get."""
        return self._means

    def held(self) -> list[str]:
        """Ids of the versions that the engine holds."""
        return list(self._held)

    async def refresh(self) -> None:
        """Takes over what the registry says by now: versions are loaded before names mean them, as far as there is
        room; a version that is refused changes nothing."""
        state = self._state = await asyncio.to_thread(self._registry.state)
        for name in set(self._means) - set(state):
            del self._means[name]
        for name, aliases in state.items():
            mine = self._means.setdefault(name, {})
            for alias in set(mine) - set(aliases):
                del mine[alias]
            for alias, number in aliases.items():
                if mine.get(alias) != number and await self._is_warm(name, number):
                    mine[alias] = number
        await self._tidy()

    async def acquire(self, wanted: Reference) -> Resident:
        """What answers a request to `wanted`, held until `release`; loaded where it is not. Raises NotPublished,
        NoRoom, or UserError where the version is refused."""
        number = self._number(wanted)
        id = f"{wanted.name}:{number}"
        while id not in self._held:
            await self._load(wanted.name, number)
        resident = self._held[id]
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

    def _number(self, wanted: Reference) -> int:
        aliases = self._means.get(wanted.name)
        if aliases is None:
            raise NotPublished(f"nothing is published as '{wanted.name}'")
        if wanted.number is not None:
            return wanted.number
        alias = str(wanted.alias)
        number = aliases.get(alias)
        if number is None:
            if refused := self._refused.get(f"{wanted.name}:{self._state[wanted.name].get(alias)}"):
                raise UserError(refused)
            there = ", ".join(f"{wanted.name}@{alias}" for alias in sorted(aliases)) or "none"
            raise NotPublished(f"'{wanted.name}' has no version in {wanted.alias}; there is {there}")
        return number

    async def _is_warm(self, name: str, number: int) -> bool:
        """Whether a name may mean a version from now on: it is loaded, or nobody has asked for the name yet and there
        is no room to load it beforehand."""
        id = f"{name}:{number}"
        if id in self._held:
            return True
        if id in self._refused:
            return False
        is_in_use = any(one.version.name == name for one in self._held.values())
        if not is_in_use and len(self._held) >= self._most:
            return True
        try:
            await self._load(name, number)
        except UserError as error:
            logger.error("%s is refused: %s", id, error)
            self._refused[id] = str(error)
            return False
        except (FettleError, OSError) as error:
            logger.warning("%s is not loaded yet: %s", id, error)
            return False
        return True

    async def _load(self, name: str, number: int) -> None:
        """Once, however many wait for it."""
        id = f"{name}:{number}"
        if id not in self._loading:
            self._loading[id] = asyncio.create_task(self._loaded(name, number))
            self._loading[id].add_done_callback(lambda _: self._loading.pop(id, None))
        await asyncio.shield(self._loading[id])

    async def _loaded(self, name: str, number: int) -> None:
        try:
            version = await asyncio.to_thread(self._registry.find, Reference(name, None, number))
        except UserError as error:
            raise NotPublished(error.got) from None
        await self._make_room()
        folder = self._folder / f"{name}-{number}-{time.monotonic_ns()}"
        try:
            served, neutral = await asyncio.to_thread(self._copied, version, folder)
            await self._adapters.put(version.id, folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self._held[version.id] = Resident(version, folder, served.defaults, neutral, used=time.monotonic())

    def _copied(self, version: Version, folder: Path) -> tuple[ServedAdapter, Neutral]:
        """The replica's own copy: the engine may read it again whenever it likes, whatever becomes of the registry."""
        shutil.copytree(version.folder, folder)
        if digest_folder(folder) != version.digest:
            raise UserError(f"the files of {version.id} are not those that were published", file=version.folder)
        served = self._admit(version.id, folder)
        return served, self._neutral_of(served.defaults.get("chat_template"))

    async def _make_room(self) -> None:
        """Drops the version that has not been asked for for the longest time, where all places are taken."""
        while len(self._held) + len(self._loading) > self._most:
            idle = [one for one in self._held.values() if not one.running]
            if not idle:
                raise NoRoom(f"all {self._most} places for adapters are taken by running requests")
            await self._drop(min(idle, key=lambda one: one.used))

    async def _drop(self, resident: Resident) -> None:
        del self._held[resident.version.id]
        await self._adapters.remove(resident.version.id)
        self._left.append((time.monotonic(), resident.folder))

    async def _tidy(self) -> None:
        """Drops versions that an alias has left and nobody uses any more, and files that nobody reads any more."""
        meant = {f"{name}:{number}" for name, aliases in self._means.items() for number in aliases.values()}
        for resident in list(self._held.values()):
            id, is_idle = resident.version.id, time.monotonic() - resident.used > _UNMEANT_STAY_S
            if id not in meant and is_idle and not resident.running and self._held.get(id) is resident:
                await self._drop(resident)
        while self._left and time.monotonic() - self._left[0][0] > _FILES_STAY_S:
            await asyncio.to_thread(shutil.rmtree, self._left.popleft()[1], True)
