"""A question on its way: to production, to a canary in its place, and as a copy to a canary in the shadow."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable

from fettle.registry.canary import Canary
from fettle.registry.reference import Reference
from fettle.serving.engines import Engines, Unavailable
from fettle.serving.keys import sees
from fettle.serving.question import VERSION, Part, Question
from fettle.serving.traffic import Traffic, is_bare

_NOT_TOLD = "?"  # the version of a canary that gave no answer
_MOST_SHADOWS = 8  # at a time; beyond that requests cast none

logger = logging.getLogger(__name__)

Outcome = Callable[[int, float], None]
"""To be told the status of an answer and its seconds, once it has ended."""


class Dispatch:
    """Over all engines of an endpoint."""

    def __init__(self, engines: Engines, traffic: Traffic) -> None:
        self._engines, self._traffic = engines, traffic
        self._shadows: set[asyncio.Task[None]] = set()

    async def ask(self, question: Question, who: str | None) -> tuple[Part, AsyncIterator[Part], Outcome]:
        """The answer's first part, those after it, and whom to tell how it went. who: the same user gets the same
        version. Raises Unavailable."""
        model = question.wanted.get("model")
        canary = self._traffic.canary(model) if isinstance(model, str) and is_bare(model) else None
        if canary is None or not isinstance(model, str) or not sees(question.visible, model):
            return *await self._engines.ask(question), lambda status, seconds: None
        is_meant = self._traffic.chosen(model, who)
        if is_meant and canary.is_shadow:
            self._cast(question, model, canary)
        by_canary = is_meant and not canary.is_shadow
        if by_canary:
            try:
                head, parts = await self._engines.ask(_of_canary(question, model, canary))
            except Exception as error:
                status = 503 if isinstance(error, Unavailable) else 500
                self._traffic.answered(model, canary, _NOT_TOLD, status, 0.0)
                raise
            if version := _version_in(head):
                return head, parts, self._outcome(model, canary, version)
        head, parts = await self._engines.ask(question)
        if by_canary and head.status == 200:  # the canary was not to be had: production answers
            self._traffic.answered(model, canary, _NOT_TOLD, 503, 0.0)
        return head, parts, self._outcome(model, canary, "")

    def _outcome(self, model: str, canary: Canary, version: str) -> Outcome:
        return lambda status, seconds: self._traffic.answered(model, canary, version, status, seconds)

    def _cast(self, question: Question, model: str, canary: Canary) -> None:
        if len(self._shadows) >= _MOST_SHADOWS:
            return
        task = asyncio.create_task(self._shadow(_of_canary(question, model, canary), model, canary))
        self._shadows.add(task)
        task.add_done_callback(self._shadows.discard)

    async def _shadow(self, question: Question, model: str, canary: Canary) -> None:
        """Nobody waits for it, and nobody sees it but who watches the canary."""
        began, status, version = time.monotonic(), 503, _NOT_TOLD
        try:
            head, parts = await self._engines.ask(question)
            async for _ in parts:
                pass
            status, version = head.status or 0, _version_in(head) or _NOT_TOLD
        except Unavailable:
            pass
        except Exception:
            logger.exception("%s: the canary in the shadow failed", question.id)
            status = 500
        self._traffic.answered(model, canary, version, status, time.monotonic() - began)


def _version_in(head: Part) -> str:
    return next((value.decode() for name, value in head.headers if name == VERSION), "")


def _of_canary(question: Question, model: str, canary: Canary) -> Question:
    wanted = question.wanted | {"model": str(Reference(model, canary.alias))}
    return question._replace(wanted=wanted, id=f"{question.id}-canary")
