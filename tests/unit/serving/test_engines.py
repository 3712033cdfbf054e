"""How the ingress asks replicas that die, are late, or are not there, over a handle whose answers are told before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, RayTaskError

from fettle.serving import engines
from fettle.serving.engines import Replicas, Unavailable
from fettle.serving.question import TAKEN, EngineDied, Part, Question

HEAD = Part(b"Hello", True, 200, ((b"content-type", b"text/plain"),))
REST = Part(b" there", False)
QUESTION = Question("/v1/completions", {"model": "base"}, "1")
GONE = ActorDiedError()
WITHOUT_ENGINE = RayTaskError("answer", "…", EngineDied("the engine died"))
LATE = "late"


class Answer:
    """One answer of a replica: parts, errors that are raised in their place, and LATE for one that never comes."""

    def __init__(self, script: list[Any]) -> None:
        self._script, self.cancelled = iter(script), False

    def __aiter__(self) -> AsyncIterator[Any]:
        return self  # type: ignore[return-value]

    async def __anext__(self) -> Any:
        one = next(self._script, StopAsyncIteration())
        if one is LATE:
            await asyncio.Event().wait()
        if isinstance(one, Exception):
            raise one
        return one

    def cancel(self) -> None:
        self.cancelled = True


class Handle:
    """A deployment's, whose answers are given one after the other."""

    def __init__(self, *scripts: list[Any]) -> None:
        self.answers = [Answer(script) for script in scripts]
        self.asked = 0
        self.answer = self

    def options(self, **_: Any) -> Handle:
        return self

    def remote(self, question: Question) -> Answer:
        self.asked += 1
        return self.answers[self.asked - 1]


class Cards:
    """A handle that counts how often it is asked what there is."""

    def __init__(self) -> None:
        self.asked, self.cards = 0, self

    def options(self, **_: Any) -> Cards:
        return self

    async def remote(self) -> list[dict[str, Any]]:
        self.asked += 1
        return [{"id": "base"}]


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "WAIT_S", 0.05)
    monkeypatch.setattr(engines, "_AGAIN_S", 0.0)


async def told(handle: Handle) -> list[Part]:
    head, rest = await Replicas(handle).ask(QUESTION)
    return [head, *[part async for part in rest]]


@pytest.mark.parametrize(
    "deaths",
    [[], [[GONE]], [[TAKEN, GONE]], [[WITHOUT_ENGINE], [TAKEN, WITHOUT_ENGINE]], [[GONE]] * 9, [[TAKEN, GONE]] * 2],
)
def test_a_question_is_asked_again_until_its_answer_begins(deaths: list[list[Any]]) -> None:
    handle = Handle(*deaths, [TAKEN, HEAD, REST])
    assert asyncio.run(told(handle)) == [HEAD, REST]
    assert handle.asked == len(deaths) + 1


def test_a_replica_may_take_its_time_once_it_has_the_question() -> None:
    async def slow() -> list[Part]:
        handle = Handle([TAKEN, HEAD])
        taken = handle.answers[0].__anext__

        async def late_head() -> Any:
            if handle.asked == 1 and not handle.answers[0].cancelled:
                handle.asked = 2
                return await taken()
            await asyncio.sleep(0.1)
            return await taken()

        handle.answers[0].__class__ = type("Slow", (Answer,), {"__anext__": lambda self: late_head()})
        head, _ = await Replicas(handle).ask(QUESTION)
        return [head]

    assert asyncio.run(slow()) == [HEAD]


def test_who_waits_for_a_replica_is_told_and_waits_no_longer() -> None:
    handle = Handle([LATE])
    with pytest.raises(Unavailable, match="within 0.05 s"):
        asyncio.run(told(handle))
    assert handle.answers[0].cancelled


@pytest.mark.parametrize("script", [[TAKEN, GONE], [TAKEN, WITHOUT_ENGINE]])
def test_what_replicas_die_of_is_not_handed_to_all_of_them(script: list[Any]) -> None:
    handle = Handle(*[script] * 9)
    with pytest.raises(Unavailable, match="3 replicas died over it"):
        asyncio.run(told(handle))
    assert handle.asked == 3


def test_where_there_never_will_be_a_replica_nobody_waits_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_AGAIN_S", 0.01)
    with pytest.raises(Unavailable):
        asyncio.run(told(Handle(*[[GONE]] * 99)))


def test_a_replica_that_says_nothing_is_not_waited_for_while_there_is_time_for_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engines, "WAIT_S", 5.0)
    monkeypatch.setattr(engines, "_TAKEN_S", 0.02)
    handle = Handle([LATE], [LATE], [TAKEN, HEAD, REST])
    assert asyncio.run(told(handle)) == [HEAD, REST]
    assert [one.cancelled for one in handle.answers] == [True, True, False]


def test_an_answer_that_has_begun_is_not_asked_for_again() -> None:
    handle = Handle([TAKEN, HEAD, GONE])
    with pytest.raises(ActorDiedError):
        asyncio.run(told(handle))
    assert handle.asked == 1 and handle.answers[0].cancelled


def test_an_error_of_the_question_is_nobody_elses() -> None:
    handle = Handle([TAKEN, RayTaskError("answer", "…", ValueError("x"))])
    with pytest.raises(RayTaskError):
        asyncio.run(told(handle))
    assert handle.asked == 1


def test_engines_that_sleep_are_not_woken_to_be_listed() -> None:
    handle, is_asleep = Cards(), False

    async def sleeps() -> bool:
        return is_asleep

    replicas = Replicas(handle, sleeps)
    assert asyncio.run(replicas.cards()) == [{"id": "base"}]
    is_asleep = True
    assert asyncio.run(replicas.cards()) == [{"id": "base"}] and handle.asked == 1
    assert asyncio.run(Replicas(handle, sleeps).cards()) and handle.asked == 2  # nobody knows what they are yet
