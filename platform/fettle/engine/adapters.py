"""Adapters of a running engine, by name and version: one code path for the blocking and the concurrent engine."""

from __future__ import annotations

import inspect
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Protocol, TypeVar

from vllm.lora.request import LoRARequest

from fettle.errors import FettleError, UserError

T = TypeVar("T")
Version = LoRARequest


class LoraEngine(Protocol):
    """vLLM's LLMEngine, whose methods answer at once, and AsyncLLM, whose methods are awaited."""

    def add_lora(self, lora_request: LoRARequest) -> Any: ...

    def remove_lora(self, lora_id: int) -> Any: ...


class Adapters:
    """The adapters an engine holds. `current` maps a name to the version that new requests get.

    Every version is new to vLLM: its own name (`support@3`), number and folder. The name tells requests of two
    versions apart within a batch, name and folder are the key of the prefix cache; loading anew under an old number
    is silently ignored, and loading in place answers from the old version's cache.
    """

    def __init__(self, engine: LoraEngine) -> None:
        self.current: dict[str, Version] = {}
        self._engine = engine
        self._made = 0

    async def put(self, name: str, folder: str | Path) -> Version | None:
        """Loads the adapter in `folder` and points `name` at it; gives the version it replaces, which stays loaded
        for the requests that run on it until `drop`.

        Loads at once and not with the first request: there a failure stops the whole engine. Raises UserError if it
        cannot be loaded; what `name` pointed at then stays.
        """
        self._made += 1
        version = LoRARequest(lora_name=f"{name}@{self._made}", lora_int_id=self._made, lora_path=str(folder))
        try:
            await _settled(self._engine.add_lora(version))
        except Exception as error:  # vLLM raises ValueError, its own errors, or from a core process plain Exception
            raise UserError(f"adapter '{name}' cannot be loaded: {_reason(error)}", file=folder) from error
        replaced = self.current.get(name)
        self.current[name] = version
        return replaced

    async def drop(self, version: Version) -> None:
        """Frees a replaced version. Its folder has to stay until its last request has ended."""
        if version in self.current.values():
            raise FettleError(f"adapter version {version.lora_name} is still in use")
        await _settled(self._engine.remove_lora(version.lora_int_id))

    async def remove(self, name: str) -> None:
        """Takes the name away and frees its version."""
        await self.drop(self.current.pop(name))

    def version(self, name: str | None) -> Version | None:
        """What a request to `name` is generated with; None is the base. Raises UserError for an unknown name."""
        if name is None:
            return None
        if name not in self.current:
            raise UserError(f"no adapter '{name}'", expected=", ".join(self.current) or "none is loaded")
        return self.current[name]


def public_name(version: Version) -> str:
    """The name without the version's number."""
    return version.lora_name.rpartition("@")[0]


def finished(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never has to wait: how the blocking engine runs the methods above."""
    try:
        work.send(None)
    except StopIteration as stop:
        return stop.value
    work.close()
    raise AssertionError("a blocking engine's answer had to be waited for")


async def _settled(answer: Any) -> Any:
    return await answer if inspect.isawaitable(answer) else answer


def _reason(error: Exception) -> str:
    """The first line, without the frame that the core's process puts around it."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].removeprefix("Call to add_lora method failed: ")
