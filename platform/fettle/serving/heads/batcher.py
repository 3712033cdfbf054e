"""Small jobs of many requests, done together in one thread: what waits when it comes free is the next batch."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

One = TypeVar("One")
Made = TypeVar("Made")


@dataclass(eq=False)
class _Request(Generic[One, Made]):
    """taken: how many of its items are, or were, in a batch. made: by their place."""

    items: Sequence[One]
    done: asyncio.Future[None]
    taken: int = 0
    made: dict[int, Made] = field(default_factory=dict)


class Batcher(Generic[One, Made]):
    """Of one event loop. work: from a batch to what is made of each of its items, in a thread. length: of an item in
    tokens; no batch of several has more than `most` of them, each padded to the longest.

    Nobody waits for others to come. Requests take turns, item by item, so that a long list does not hold up a single
    text that came after it.
    """

    def __init__(self, work: Callable[[list[One]], Sequence[Made]], length: Callable[[One], int], most: int) -> None:
        self._work, self._length, self._most = work, length, most
        self._thread = ThreadPoolExecutor(1, "batches")
        self._waiting: deque[_Request[One, Made]] = deque()
        self._running: asyncio.Task[None] | None = None

    async def run(self, items: Sequence[One]) -> list[Made]:
        """What is made of each of the items, in their order. Raises what `work` raised; given up on, those that are in
        no batch yet never will be."""
        if not items:
            return []
        request: _Request[One, Made] = _Request(items, asyncio.get_running_loop().create_future())
        self._waiting.append(request)
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._work_off())
        try:
            await request.done
        finally:
            self._forget(request)
        return [request.made[place] for place in range(len(items))]

    async def _work_off(self) -> None:
        while batch := self._next():
            items = [request.items[place] for request, place in batch]
            try:
                made = await asyncio.get_running_loop().run_in_executor(self._thread, self._work, items)
            except Exception as error:
                for request, _ in batch:
                    self._forget(request)
                    if not request.done.done():
                        request.done.set_exception(error)
                continue
            for (request, place), one in zip(batch, made, strict=True):
                request.made[place] = one
                if len(request.made) == len(request.items) and not request.done.done():
                    request.done.set_result(None)

    def _next(self) -> list[tuple[_Request[One, Made], int]]:
        found: list[tuple[_Request[One, Made], int]] = []
        longest = 0
        while self._waiting:
            request = self._waiting[0]
            longest = max(longest, self._length(request.items[request.taken]))
            if found and longest * (len(found) + 1) > self._most:
                break
            found.append((request, request.taken))
            request.taken += 1
            self._waiting.popleft()
            if request.taken < len(request.items):
                self._waiting.append(request)
        return found

    def _forget(self, request: _Request[One, Made]) -> None:
        if request in self._waiting:
            self._waiting.remove(request)
