"""What a replica does when its engine fails, with engines that only fail."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from fettle.engine.env import EngineOptions
from fettle.errors import FettleError, UserError
from fettle.serving import replica
from fettle.serving.resolve import ServedModel

SERVED = ServedModel(name="base", folder=Path("/base"), primary="base", chats=True)
# The class itself: what Serve makes of it wants to be deleted on its own event loop.
REPLICA: Any = replica.Replica.func_or_class  # type: ignore[attr-defined]


class Exited(BaseException):
    """Stands for the end of the process."""


class DiesAtThirdLook:
    looks = 0

    @property
    def is_dead(self) -> bool:
        self.looks += 1
        return self.looks >= 3


@pytest.fixture
def exits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    codes: list[int] = []

    def leave(code: int) -> None:
        codes.append(code)
        raise Exited

    monkeypatch.setattr(os, "_exit", leave)
    monkeypatch.setattr(replica, "_WATCH_S", 0.0)
    return codes


def test_replica_ends_with_its_engine(exits: list[int]) -> None:
    one = REPLICA.__new__(REPLICA)

    with pytest.raises(Exited):
        asyncio.run(one._watch(DiesAtThirdLook()))

    assert exits == [1]


def failing(error: Exception) -> Any:
    async def start(served: ServedModel, options: EngineOptions) -> Any:
        raise error

    return start


async def failed() -> BaseException:
    """The error of a replica whose engine does not start."""
    one = REPLICA.__new__(REPLICA)
    with pytest.raises(FettleError) as caught:
        await one.__init__(SERVED, EngineOptions(), None)
    return caught.value


def test_failed_start_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    told = "1 validation error for ModelConfig\n  Value error, no such architecture\n    For more see ..."
    monkeypatch.setattr(replica, "_start", failing(ValueError(told)))

    assert str(asyncio.run(failed())) == "ValueError: Value error, no such architecture"


def test_users_mistake_stays_the_users_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica, "_start", failing(UserError("adapter 'x' cannot be loaded", file="/x")))

    error = asyncio.run(failed())

    assert isinstance(error, UserError) and error.file == "/x"
