"""Versions of adapters, on a counting engine: no vLLM model is loaded."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest

pytest.importorskip("vllm.lora.request")
from vllm.lora.request import LoRARequest

from fettle.engine.adapters import Adapters, finished, public_name
from fettle.errors import FettleError, UserError


class Blocking:
    """Holds what LLMEngine would hold."""

    def __init__(self) -> None:
        self.held: dict[int, str] = {}

    def add_lora(self, lora_request: LoRARequest) -> bool:
        if "broken" in lora_request.lora_path:
            raise ValueError("Call to add_lora method failed: rank 16 is too high\nand more")
        self.held[lora_request.lora_int_id] = lora_request.lora_path
        return True

    def remove_lora(self, lora_id: int) -> bool:
        return self.held.pop(lora_id, None) is not None


class Concurrent(Blocking):
    """The same, awaited, as AsyncLLM is."""

    def add_lora(self, lora_request: LoRARequest) -> Awaitable[bool]:  # type: ignore[override]
        async def add() -> bool:
            await asyncio.sleep(0)
            return Blocking.add_lora(self, lora_request)

        return add()


def test_each_version_has_a_name_and_a_number_of_its_own() -> None:
    adapters = Adapters(Blocking())

    first = finished(adapters.put("support", "/a/1"))
    old = finished(adapters.put("support", "/a/2"))

    new = adapters.version("support")
    assert first is None and old is not None and new is not None
    assert (old.lora_name, old.lora_int_id, new.lora_name, new.lora_int_id) == ("support@1", 1, "support@2", 2)


def test_replaced_version_stays_until_it_is_dropped() -> None:
    engine = Blocking()
    adapters = Adapters(engine)
    finished(adapters.put("support", "/a/1"))
    old = finished(adapters.put("support", "/a/2"))
    held_before = dict(engine.held)

    assert old is not None
    finished(adapters.drop(old))

    assert (held_before, engine.held) == ({1: "/a/1", 2: "/a/2"}, {2: "/a/2"})


def test_version_in_use_cannot_be_dropped() -> None:
    adapters = Adapters(Blocking())
    finished(adapters.put("support", "/a/1"))

    with pytest.raises(FettleError, match="still in use"):
        finished(adapters.drop(adapters.current["support"]))


def test_adapter_that_does_not_load_leaves_the_old_one() -> None:
    adapters = Adapters(Blocking())
    finished(adapters.put("support", "/a/1"))

    with pytest.raises(UserError, match=r"/broken: adapter 'support' cannot be loaded: rank 16 is too high$"):
        finished(adapters.put("support", "/broken"))

    assert adapters.current["support"].lora_path == "/a/1"


def test_the_awaited_engine_takes_the_same_path() -> None:
    engine = Concurrent()

    asyncio.run(Adapters(engine).put("support", "/a/1"))

    assert engine.held == {1: "/a/1"}


def test_removed_name_is_unknown_and_its_memory_free() -> None:
    engine = Blocking()
    adapters = Adapters(engine)
    finished(adapters.put("support", "/a/1"))

    finished(adapters.remove("support"))

    assert engine.held == {}
    with pytest.raises(UserError, match="no adapter 'support'"):
        adapters.version("support")


def test_public_name_is_the_name_without_its_version() -> None:
    assert public_name(LoRARequest(lora_name="team/support@12", lora_int_id=12, lora_path="/a")) == "team/support"
