"""Several base models behind one ingress: each has an engine of its own, and names of its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from fettle.registry.folder import FolderRegistry
from fettle.registry.reference import parsed
from fettle.serving.engines import Engines
from fettle.serving.keys import sees
from fettle.serving.question import Part, Question

_NAMES_FOR_S = 0.5


@dataclass(frozen=True)
class Behind:
    """names: that are always there, the base first. registry: of adapters over it, no other model's."""

    engines: Engines
    names: tuple[str, ...]
    registry: FolderRegistry | None


class Several:
    """Engines in place of one. What no model is called by is asked of the first, which says so."""

    def __init__(self, served: Sequence[Behind]) -> None:
        self._served = served
        self._published: list[set[str]] = [set() for _ in served]
        self._looked, self._looking = -_NAMES_FOR_S, asyncio.Lock()

    async def ask(self, question: Question) -> tuple[Part, AsyncIterator[Part]]:
        """See Engines."""
        model = question.wanted.get("model")
        # A name that is not to be known of is asked of the first, as one that nobody has.
        is_seen = isinstance(model, str) and sees(question.visible, model)
        return await (await self._meant(model if is_seen else None)).engines.ask(question)

    async def cards(self) -> list[dict[str, Any]] | None:
        """Of all that are there; see Engines."""
        told = await asyncio.gather(*(one.engines.cards() for one in self._served))
        there = [cards for cards in told if cards is not None]
        return [card for cards in there for card in cards] if there else None

    async def _meant(self, model: object) -> Behind:
        if not isinstance(model, str) or not model:
            return self._served[0]
        for one in self._served:
            if model in one.names:
                return one
        meant = parsed(model)
        if meant is not None:
            await self._look()
            for one, published in zip(self._served, self._published, strict=True):
                if meant.name in published:
                    return one
            for one in self._served:
                if meant.name in one.names:  # a model that has versions, by one of them
                    return one
        return self._served[0]

    async def _look(self) -> None:
        async with self._looking:
            if time.monotonic() - self._looked < _NAMES_FOR_S:
                return
            for place, one in enumerate(self._served):
                if one.registry is not None and one.registry.is_there:  # one that is away for a while has its names
                    self._published[place] = set(await asyncio.to_thread(one.registry.state, "adapter"))
            self._looked = time.monotonic()
