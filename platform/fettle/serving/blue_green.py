"""Which versions of a model that a registry has have engines: a new one gets some beside the old one's, the name means
it once they are warm, and only then the old ones end."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from typing import Literal, NamedTuple, Protocol

from fettle.errors import FettleError, UserError
from fettle.registry.folder import FolderRegistry, Version
from fettle.registry.reference import PRODUCTION
from fettle.serving.followed import Followed

_NOTICED_S = 5.0
"""In which every ingress knows what a name means, and asks the old one nothing more."""
_AGAIN_S = 300.0
"""Until a version whose engines did not start is tried again: they may have lacked memory."""

logger = logging.getLogger(__name__)


class State(NamedTuple):
    """Of a version's engines."""

    phase: Literal["starting", "running", "failed", "ending"]
    why: str = ""


class Apps(Protocol):
    """The engines of a version, by the name of their application."""

    async def states(self) -> dict[str, State]:
        """Of all that there are."""
        ...

    async def start(self, app: str, version: Version) -> None:
        """Begins to. Raises UserError for a version that cannot be served."""
        ...

    async def end(self, app: str) -> None:
        """Has them end once they have answered what they were asked."""
        ...


class Live(NamedTuple):
    """The version that an alias means, and where it is answered."""

    version: str
    app: str


class BlueGreen:
    """Of one model; `step` again and again, one at a time."""

    def __init__(self, followed: Followed, apps: Apps) -> None:
        self.followed, self._apps, self._registry = followed, apps, FolderRegistry(followed.registry)
        self._wanted: dict[str, Version] = {}
        self._live: dict[str, Live] = {}
        self._refused: dict[str, tuple[str, float]] = {}  # by version: why, and until when
        self._unneeded: dict[str, float] = {}  # applications: since when
        self._said: set[str] = set()

    @property
    def live(self) -> dict[str, Live]:
        """By alias, where it means anything."""
        return dict(self._live)

    @property
    def refused(self) -> dict[str, str]:
        """By alias, why the version that it points at is not served."""
        told = {alias: self._refused.get(version.id) for alias, version in self._wanted.items()}
        return {alias: f"{self._wanted[alias].id}: {one[0]}" for alias, one in told.items() if one is not None}

    async def step(self) -> None:
        """Looks at the registry and the engines, and brings them nearer to each other. Raises OSError where the
        registry is not there; nothing is changed then."""
        await self._look()
        states = await self._apps.states()
        self._take_over(states)
        needed = {one.app for one in self._live.values()}
        for alias, version in self._wanted.items():
            if (told := self._refused.get(version.id)) is not None:
                if time.monotonic() < told[1]:
                    continue
                del self._refused[version.id]
            app = self._app_of(version, states)
            needed.add(app)
            state = states.get(app)
            if state is None:
                await self._start(app, version)
                states[app] = State("starting")  # another alias may point at it too
            elif state.phase == "running":
                self._mean(alias, Live(version.id, app))
            elif state.phase == "starting" and state.why and app not in self._said:
                self._said.add(app)  # it may lack room beside the old ones
                logger.warning("%s: its engines are not there yet: %s", version.id, state.why)
            elif state.phase == "failed" and app not in {one.app for one in self._live.values()}:
                # What has run once Ray Serve mends by itself.
                self._refuse(version, state.why, time.monotonic() + _AGAIN_S)
                needed.discard(app)
        await self._end_others(states, needed)

    async def _look(self) -> None:
        state = await asyncio.to_thread(self._registry.state, "model")
        if not state and not self._registry.is_there:
            raise OSError(f"there is no registry in {self._registry.root}")
        aliases = state.get(self.followed.name, {})
        if aliases is None:  # files that cannot be read: it means what it meant
            return
        self._wanted = {alias: aliases[alias] for alias in self.followed.aliases if alias in aliases}
        self._live = {alias: live for alias, live in self._live.items() if alias in self._wanted}

    def _take_over(self, states: dict[str, State]) -> None:
        """Where an alias means nothing yet, what an earlier keeper has left for it answers: the same version's engines,
        though with other options; of production any version's, the newest one's."""
        unmeant = {alias: version for alias, version in self._wanted.items() if alias not in self._live}
        if not unmeant:
            return
        running = [app for app, one in states.items() if one.phase == "running"]
        ours = sorted((number, app) for app in running if (number := self.followed.number(app)) is not None)
        for alias, version in unmeant.items():
            same = [one for one in ours if one[0] == version.number]
            if found := same or (ours if alias == PRODUCTION else []):
                number, app = found[-1]
                self._mean(alias, Live(f"{version.name}:{number}", app))

    def _app_of(self, version: Version, states: dict[str, State]) -> str:
        """The application of a version's engines: one that is there and does not end, else a new one's name."""
        named = self.followed.app(version)
        for number in itertools.count(1):
            app = f"{named}-{number}"
            if app not in states or states[app].phase != "ending":
                return app
        raise AssertionError

    async def _start(self, app: str, version: Version) -> None:
        logger.warning("%s: its engines are started", version.id)
        try:
            await self._apps.start(app, version)
        except UserError as error:
            self._refuse(version, error.got, float("inf"))
        except (FettleError, OSError) as error:
            self._refuse(version, str(error), time.monotonic() + _AGAIN_S)

    def _mean(self, alias: str, live: Live) -> None:
        if self._live.get(alias) != live:
            logger.warning("%s@%s is %s", self.followed.name, alias, live.version)
            self._live[alias] = live

    def _refuse(self, version: Version, why: str, until: float) -> None:
        logger.error("%s is not served: %s", version.id, why)
        self._refused[version.id] = why, until

    async def _end_others(self, states: dict[str, State], needed: set[str]) -> None:
        """Ends what no alias means any more, a little later, and what did not start."""
        now = time.monotonic()
        ours = [app for app in states if app.startswith(self.followed.prefix) and states[app].phase != "ending"]
        self._unneeded = {app: self._unneeded.get(app, now) for app in ours if app not in needed}
        for app, since in self._unneeded.items():
            if states[app].phase != "running" or now - since >= _NOTICED_S:
                logger.warning("%s: its engines end", app)
                await self._apps.end(app)
