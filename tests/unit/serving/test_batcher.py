"""What waits is done together, in turns."""

from __future__ import annotations

import asyncio
import threading

import pytest

from fettle.serving.heads.batcher import Batcher


class Doubles:
    """Repeats each text, once it may; keeps its batches."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.begun, self.may = threading.Event(), threading.Event()
        self.may.set()

    def __call__(self, items: list[str]) -> list[str]:
        self.batches.append(items)
        self.begun.set()
        self.may.wait(10)
        if "bad" in items:
            raise ValueError("a bad one")
        return [2 * item for item in items]


async def after_a_first_one(doubles: Doubles, most: int, *requests: list[str]) -> list[object]:
    """What becomes of requests that come while a first one is being done."""
    doubles.may.clear()
    batcher: Batcher[str, str] = Batcher(doubles, len, most)
    first = asyncio.create_task(batcher.run(["first"]))
    await asyncio.to_thread(doubles.begun.wait, 10)
    tasks = [asyncio.create_task(batcher.run(items)) for items in requests]
    await asyncio.sleep(0)
    doubles.may.set()
    await first
    return list(await asyncio.gather(*tasks, return_exceptions=True))


def test_requests_that_wait_share_a_batch_and_each_gets_its_own() -> None:
    doubles = Doubles()

    found = asyncio.run(after_a_first_one(doubles, 100, ["a", "b"], ["c"]))

    assert found == [["aa", "bb"], ["cc"]]
    assert doubles.batches == [["first"], ["a", "c", "b"]]


def test_a_batch_has_at_most_so_many_tokens_with_its_padding_and_one_text_may_have_more() -> None:
    doubles = Doubles()

    asyncio.run(after_a_first_one(doubles, 6, ["aa", "bbb", "cccccccc"], ["d"]))

    # "aa" and "d" and "bbb" would be three times three; 2 x 3 is six.
    assert doubles.batches == [["first"], ["aa", "d"], ["bbb"], ["cccccccc"]]


def test_what_fails_fails_those_in_its_batch_alone() -> None:
    doubles = Doubles()

    found = asyncio.run(after_a_first_one(doubles, 3, ["bad"], ["e", "f"]))

    assert isinstance(found[0], ValueError) and found[1] == ["ee", "ff"]


def test_who_gives_up_is_forgotten() -> None:
    async def given_up() -> list[list[str]]:
        doubles = Doubles()
        doubles.may.clear()
        batcher: Batcher[str, str] = Batcher(doubles, len, 100)
        first = asyncio.create_task(batcher.run(["first"]))
        await asyncio.to_thread(doubles.begun.wait, 10)
        second = asyncio.create_task(batcher.run(["second"]))
        await asyncio.sleep(0)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        doubles.may.set()
        await first
        await batcher.run(["third"])
        return doubles.batches

    assert asyncio.run(given_up()) == [["first"], ["third"]]


def test_nothing_is_done_at_once() -> None:
    assert asyncio.run(Batcher[str, str](Doubles(), len, 9).run([])) == []
