"""Which version a request for a bare name goes to: production, or for a share of them its canary, watched."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import replace
from math import ceil

from fettle.errors import UserError
from fettle.registry.canary import Canary
from fettle.registry.folder import FolderRegistry
from fettle.registry.reference import PRODUCTION, parsed

_WINDOW = 500  # of the newest answers
_LEAST_SLOWER_S = 0.05  # below which a slowdown is noise

logger = logging.getLogger(__name__)


class Seen:
    """The newest answers of one side."""

    def __init__(self) -> None:
        self.errors: deque[bool] = deque(maxlen=_WINDOW)
        self.seconds: deque[float] = deque(maxlen=_WINDOW)

    def add(self, status: int, seconds: float) -> None:
        """status: of the answer; a caller's own mistake says nothing of the version."""
        if status == 200 or status >= 500:
            self.errors.append(status >= 500)
        if status == 200:
            self.seconds.append(seconds)

    @property
    def error_rate(self) -> float:
        """Of all answers; 0 of none."""
        return sum(self.errors) / max(1, len(self.errors))

    @property
    def p95_s(self) -> float:
        """Seconds that 95 % of the good answers took at most."""
        return sorted(self.seconds)[ceil(0.95 * len(self.seconds)) - 1] if self.seconds else 0.0


class Traffic:
    """Of one ingress, over what some registries have. taken: names that mean a given model, whatever a registry has
    under them too."""

    def __init__(self, registries: Sequence[FolderRegistry], taken: Collection[str] = ()) -> None:
        self._registries, self._taken = registries, frozenset(taken)
        self._canaries: dict[str, Canary] = {}
        self._seen: dict[tuple[str, Canary, str], Seen] = {}  # by the canary's version, and "" for production
        self._stopped: dict[str, Canary] = {}  # by this ingress, whatever the registry says of the same one

    async def refresh(self) -> None:
        """Looks at the registry; one that cannot be read changes nothing."""
        try:
            found = await asyncio.to_thread(_running, self._registries)
            if found or all(registry.is_there for registry in self._registries):  # else one is away
                self._canaries = {name: one for name, one in found.items() if name not in self._taken}
            self._stopped = {name: one for name, one in self._stopped.items() if self._canaries.get(name) == one}
        except Exception as error:  # of a file system that is away, or of files that make no sense
            logger.error("the canaries cannot be read: %s: %s", type(error).__name__, error)
        self._seen = {key: seen for key, seen in self._seen.items() if self._canaries.get(key[0]) == key[1]}

    def canary(self, model: str) -> Canary | None:
        """Of a bare name, where one runs."""
        canary = self._canaries.get(model)
        return None if canary is None or self._stopped.get(model) == canary else canary

    def chosen(self, model: str, who: str | None) -> bool:
        """Whether a request is one of the canary's share: of the same user always the same answer, while the share is
        the same; of nobody in particular by chance."""
        canary = self.canary(model)
        if canary is None:
            return False
        return (random.random() if who is None else share_of(model, who)) * 100 < canary.percent

    def answered(self, model: str, canary: Canary, version: str, status: int, seconds: float) -> None:
        """One answer. version: of the canary, which is judged by this one's answers alone; empty for production."""
        seen = self._seen.setdefault((model, canary, version), Seen())
        seen.add(status, seconds)
        if version and self.canary(model) == canary and (why := self._too_bad(model, canary, seen)) is not None:
            self._stopped[model] = canary
            logger.error("the canary %s@%s is stopped: %s", model, canary.alias, why)
            asyncio.get_running_loop().run_in_executor(None, self._tell, model, canary, why)

    def _too_bad(self, model: str, canary: Canary, new: Seen) -> str | None:
        old = self._seen.get((model, canary, ""), Seen())
        if len(new.errors) < canary.least:
            return None
        if new.error_rate > max(canary.most_errors, old.error_rate):
            return (
                f"{new.error_rate:.1%} of its {len(new.errors)} answers are errors, production's {old.error_rate:.1%}"
            )
        enough = len(new.seconds) >= canary.least and len(old.seconds) >= canary.least
        if enough and new.p95_s > max(canary.most_slowdown * old.p95_s, old.p95_s + _LEAST_SLOWER_S):
            return f"95 % of its answers take up to {new.p95_s:.2f} s, of production's {old.p95_s:.2f} s"
        return None

    def _tell(self, model: str, canary: Canary, why: str) -> None:
        for registry in self._registries:
            try:
                if registry.canary(model) == canary:
                    registry.set_canary(model, replace(canary, stopped=why))
            except (OSError, UserError) as error:
                logger.error("that %s@%s is stopped could not be written: %s", model, canary.alias, error)


def share_of(model: str, who: str) -> float:
    """A number from 0 to 1 that is a user's own, another one for each name."""
    return int.from_bytes(hashlib.sha256(f"{model}/{who}".encode()).digest()[:8], "big") / 2**64


def is_bare(model: str) -> bool:
    """Whether it is a published name by itself, which means production."""
    meant = parsed(model)
    return meant is not None and meant.alias == PRODUCTION and model == meant.name


def _running(registries: Sequence[FolderRegistry]) -> dict[str, Canary]:
    found: dict[str, Canary] = {}
    for registry, name in [(one, name) for one in registries for name in one.with_canary()]:
        try:
            canary = registry.canary(name)
        except UserError as error:
            logger.error("%s", error)
            continue
        if canary is not None and canary.stopped is None:
            found[name] = canary
    return found
