"""An engine that only remembers which adapters it holds."""

from __future__ import annotations

import asyncio
from pathlib import Path

from fettle.errors import UserError
from fettle.serving.residency import Residency


class Remembers:
    """The engine's adapters: by id the folder each was loaded from, which takes `seconds`. What is in `bad` cannot
    be loaded."""

    def __init__(self) -> None:
        self.there: dict[str, Path] = {}
        self.loads: list[str] = []
        self.bad: set[str] = set()
        self.seconds = 0.0

    async def put(self, name: str, folder: Path) -> None:
        self.loads.append(name)
        await asyncio.sleep(self.seconds)
        if name in self.bad:
            raise UserError(f"adapter '{name}' cannot be loaded: rank")
        self.there[name] = folder

    async def remove(self, name: str) -> None:
        del self.there[name]
        await asyncio.sleep(0)


async def caught_up(published: Residency) -> None:
    await published.refresh()
    await published.settled()


def ids(engine: Remembers) -> list[str]:
    return sorted(engine.there)
