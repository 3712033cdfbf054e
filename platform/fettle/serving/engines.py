"""The ingress's way to the replicas of an engine: another one where one dies, and an end to every wait.

By gRPC, which Ray Serve has for handles beside its actors' calls: 32 streams of the bundled model get a third more
tokens. Over it what a replica raises comes as it was raised, and not in a RayTaskError; its being cancelled too.
"""

from __future__ import annotations

import asyncio
import logging
import pickle
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any, Protocol

from grpc import RpcError
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException

from fettle.errors import FettleError
from fettle.serving.question import MOST_BYTES, EngineDied, Part, Question

WAIT_S = 10.0
"""For a replica to take a question; and for another one to take it, when one has died over it."""
_TAKEN_S = 2.0
"""For the one that it was given to: it may have died without anybody's knowing yet, while others live."""
_AGAIN_S = 0.2
_MOST_DEATHS = 2  # of replicas that had it: it may be what they die of
_STATE_S = 2.0

logger = logging.getLogger(__name__)


class Unavailable(FettleError):
    """No replica has answered."""


class Engines(Protocol):
    """What the gate asks."""

    async def ask(self, question: Question) -> tuple[Part, AsyncIterator[Part]]:
        """The first part of the answer, and those after it. Raises Unavailable."""
        ...

    async def cards(self) -> list[dict[str, Any]] | None:
        """What can be asked for; None while there is no replica."""
        ...


async def _awake() -> bool:
    return False


class Replicas:
    """Over a Serve handle. is_asleep: whether there are none because nobody has asked for a while."""

    def __init__(self, handle: Any, is_asleep: Callable[[], Awaitable[bool]] = _awake) -> None:
        self._streaming, self._plain = handle.options(stream=True, _by_reference=False), handle
        self._large = handle.options(stream=True)
        self._is_asleep = is_asleep
        self._cards: list[dict[str, Any]] | None = None

    async def ask(self, question: Question) -> tuple[Part, AsyncIterator[Part]]:
        """See Engines. Until the first part is there nothing has reached the client, and the question may be asked
        again: of another replica, or of the successor."""
        until, deaths = time.monotonic() + WAIT_S, 0
        handle = self._streaming if len(pickle.dumps(question)) <= MOST_BYTES else self._large
        while True:
            is_taken = False
            parts = handle.answer.remote(question)
            try:
                await asyncio.wait_for(anext(parts), max(0.0, min(_TAKEN_S, until - time.monotonic())))  # TAKEN
                is_taken = True
                return await anext(parts), _rest(parts)
            except TimeoutError:
                parts.cancel()
                if time.monotonic() >= until:
                    raise Unavailable(f"no replica was there within {WAIT_S:g} s") from None
            except (asyncio.CancelledError, EngineDied, RayError, RayServeException, RpcError) as error:
                parts.cancel()
                if not _is_death(error):
                    raise
                deaths += is_taken
                if deaths > _MOST_DEATHS or (not is_taken and time.monotonic() >= until):
                    raise Unavailable(f"{deaths} replicas died over it; at last: {type(error).__name__}") from None
                logger.warning("%s: a replica died (%s); asking another", question.id, type(error).__name__)
                if is_taken:
                    until = time.monotonic() + WAIT_S
                await asyncio.sleep(_AGAIN_S)

    async def cards(self) -> list[dict[str, Any]] | None:
        """See Engines. Of those that sleep what they told before, since asking wakes them."""
        if self._cards is not None and await self._is_asleep():
            return self._cards
        answer = self._plain.cards.remote()
        try:
            self._cards = await asyncio.wait_for(answer, _STATE_S)
            return self._cards
        except (TimeoutError, RayError, RayServeException):
            with suppress(Exception):
                answer.cancel()
            return None


async def _rest(parts: Any) -> AsyncIterator[Part]:
    """The other parts; given up on, the replica gives up too."""
    try:
        async for part in parts:
            yield part
    except BaseException as error:
        parts.cancel()
        if isinstance(error, asyncio.CancelledError) and _is_death(error):
            raise EngineDied("the replica was stopped") from None
        raise


def _is_death(error: BaseException) -> bool:
    """Whether it says nothing of the question: the replica, or its engine, is gone."""
    if isinstance(error, asyncio.CancelledError):  # the replica's own, unless it is this request that is given up
        task = asyncio.current_task()
        return task is None or not task.cancelling()
    return not isinstance(error, RayTaskError) or isinstance(error.cause, EngineDied)
