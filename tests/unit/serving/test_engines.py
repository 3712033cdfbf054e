"""How the ingress asks replicas that die, are late, or are not there, over a handle whose answers are told before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, RayTaskError

from fettle.serving import engines
from fettle.serving.engines import Replicas, Unavailable
from fettle.serving.question import MOST_BYTES, TAKEN, EngineDied, Part, Question, pieces

HEAD = Part(b"Hello", True, 200, ((b"content-type", b"text/plain"),))
REST = Part(b" there", False)
QUESTION = Question("/v1/completions", {"model": "base"}, "1")
GONE = ActorDiedError()
WITHOUT_ENGINE = EngineDied("the engine died")
STOPPED = asyncio.CancelledError()  # raised in the replica, and handed on as it was
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
        if isinstance(one, BaseException):
            raise one
        return one

    def cancel(self) -> None:
        self.cancelled = True


class Handle:
    """A deployment's, whose answers are given one after the other."""

    def __init__(self, *scripts: list[Any]) -> None:
        self.answers = [Answer(script) for script in scripts]
        self.ways: list[str] = []

    @property
    def asked(self) -> int:
        return len(self.ways)

    def options(self, _by_reference: bool = True, **_: Any) -> Way:
        return Way(self, "actor" if _by_reference else "grpc")


class Way:
    """How a handle asks."""

    def __init__(self, handle: Handle, name: str) -> None:
        self._handle, self._name, self.answer = handle, name, self

    def remote(self, question: Question) -> Answer:
        self._handle.ways.append(self._name)
        return self._handle.answers[self._handle.asked - 1]


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
    [
        [],
        [[GONE]],
        [[TAKEN, GONE]],
        [[WITHOUT_ENGINE], [TAKEN, WITHOUT_ENGINE]],
        [[STOPPED], [TAKEN, STOPPED]],
        [[GONE]] * 9,
        [[TAKEN, GONE]] * 2,
    ],
)
def test_a_question_is_asked_again_until_its_answer_begins(deaths: list[list[Any]]) -> None:
    handle = Handle(*deaths, [TAKEN, HEAD, REST])
    assert asyncio.run(told(handle)) == [HEAD, REST]
    assert handle.asked == len(deaths) + 1


def test_a_replica_may_take_its_time_once_it_has_the_question() -> None:
    async def slow() -> list[Part]:
        handle = Handle([TAKEN, HEAD])
        taken, seen = handle.answers[0].__anext__, list[bool]()

        async def late_head() -> Any:
            if not seen:
                seen.append(True)
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


def test_an_answer_whose_replica_is_stopped_is_cut_and_not_given_up() -> None:
    with pytest.raises(EngineDied, match="stopped"):
        asyncio.run(told(Handle([TAKEN, HEAD, STOPPED])))


@pytest.mark.parametrize("script", [[LATE], [TAKEN, LATE], [TAKEN, HEAD, LATE]])
def test_a_request_that_is_given_up_is_given_up_by_the_replica_and_asked_of_no_other(script: list[Any]) -> None:
    handle = Handle(script, [TAKEN, HEAD, REST])

    async def gives_up() -> None:
        task = asyncio.create_task(told(handle))
        await asyncio.sleep(0.01)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(gives_up())
    assert handle.asked == 1 and handle.answers[0].cancelled


def test_what_is_too_large_for_a_message_goes_another_way() -> None:
    handle = Handle([TAKEN, HEAD], [TAKEN, HEAD])
    for size in (1000, MOST_BYTES):
        asyncio.run(Replicas(handle).ask(Question("/v1/completions", {"prompt": "a" * size}, "1")))

    assert handle.ways == ["grpc", "actor"]


@pytest.mark.parametrize("size", [0, 1, MOST_BYTES, MOST_BYTES + 1, 2 * MOST_BYTES, 5 * MOST_BYTES + 7])
@pytest.mark.parametrize("more", [True, False])
def test_a_large_part_is_several_messages(size: int, more: bool) -> None:
    part = Part(bytes(range(256)) * (size // 256) + b"a" * (size % 256), more, 200, HEAD.headers)
    found = [*pieces(part)]

    assert b"".join(one.body for one in found) == part.body
    assert all(len(one.body) < 2 * MOST_BYTES for one in found)
    assert [one.more for one in found] == [True] * (len(found) - 1) + [more]
    assert [one.status for one in found] == [200] + [None] * (len(found) - 1)
    assert len(found) == 1 or len(found[-1].body) > 60_000  # the end, where an answer tells its tokens


@pytest.mark.parametrize("error", [ValueError("x"), RayTaskError("answer", "…", ValueError("x"))])
def test_an_error_of_the_question_is_nobody_elses(error: Exception) -> None:
    handle = Handle([TAKEN, error])
    with pytest.raises(type(error)):
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
