"""The ingress's way to a model whose versions come and go: to the engines of the one that is meant."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.responses import JSONResponse

from fettle.registry.reference import PRODUCTION, Reference, parsed
from fettle.serving.blue_green import Live
from fettle.serving.engines import Engines, Unavailable
from fettle.serving.failures import NOT_FOUND, failure, no_model
from fettle.serving.keys import sees
from fettle.serving.question import Part, Question, whole

EnginesOf = Callable[[str], Engines]
"""Of an application."""


class Versions:
    """Engines of one published model under its name. Adapters over it are answered by the version in production."""

    def __init__(self, name: str, engines_of: EnginesOf) -> None:
        self._name, self._engines_of = name, engines_of
        self._live: dict[str, Live] = {}
        self._refused: dict[str, str] = {}
        self._engines: dict[str, Engines] = {}

    async def know(self, live: dict[str, Live], refused: dict[str, str]) -> None:
        """What its aliases mean from now on."""
        there = {one.app for one in live.values()}
        new = {app: await asyncio.to_thread(self._engines_of, app) for app in there - set(self._engines)}
        self._engines = {app: one for app, one in self._engines.items() if app in there} | new
        self._live, self._refused = live, refused

    async def ask(self, question: Question) -> tuple[Part, AsyncIterator[Part]]:
        """See Engines."""
        model = question.wanted.get("model")
        meant = parsed(model or self._name) if isinstance(model, str | None) else None
        if meant is None or meant.name != self._name:
            return await self._production().ask(question)
        if not sees(question.visible, self._name):
            return whole(no_model(model, [])), _nothing()
        live = self._meant(meant)
        if live is None:
            return whole(self._not_there(meant)), _nothing()
        return await self._engines[live.app].ask(
            question._replace(wanted=question.wanted | {"model": live.version}, visible=None)
        )

    async def cards(self) -> list[dict[str, Any]] | None:
        """See Engines."""
        if PRODUCTION not in self._live:
            return None
        cards = await self._production().cards()
        if cards is None:
            return None
        named = [
            cards[0] | {"id": str(Reference(self._name, alias)), "version": live.version}
            for alias, live in sorted(self._live.items(), key=lambda one: one[0] != PRODUCTION)
        ]
        return named + [card | {"parent": self._name} for card in cards[1:]]

    def _production(self) -> Engines:
        if PRODUCTION not in self._live:
            raise Unavailable(f"no version of {self._name} is there")
        return self._engines[self._live[PRODUCTION].app]

    def _meant(self, meant: Reference) -> Live | None:
        if meant.number is None:
            if meant.alias == PRODUCTION:
                self._production()
            return self._live.get(str(meant.alias))
        return next((one for one in self._live.values() if one.version == str(meant)), None)

    def _not_there(self, meant: Reference) -> JSONResponse:
        if (why := self._refused.get(str(meant.alias))) is not None:
            return failure(400, f"'{meant}' is refused here: {why}", param="model")
        there = ", ".join(f"{Reference(self._name, alias)} ({one.version})" for alias, one in self._live.items())
        return failure(404, f"'{meant}' has no engine here; there is {there}", kind=NOT_FOUND, param="model")


async def _nothing() -> AsyncIterator[Part]:
    return
    yield
