"""vLLM answering many callers at once (AsyncLLM), with its core in another process."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from vllm import SamplingParams
from vllm.config import VllmConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.inputs import TokensPrompt
from vllm.v1.engine.async_llm import AsyncLLM

from fettle.engine.adapters import Adapters
from fettle.engine.core import CoreProcess
from fettle.engine.env import EngineOptions, engine_arguments


class ConcurrentEngine:
    """AsyncLLM and its adapters; made by `start_concurrent_engine`, on the event loop that will use it."""

    def __init__(self, llm: AsyncLLM, core: CoreProcess | None) -> None:
        self.llm = llm
        self.adapters = Adapters(llm)
        self._core = core

    @property
    def is_dead(self) -> bool:
        """Whether the core has failed; it never recovers, the process has to be replaced."""
        return bool(self.llm.errored)

    async def warm_up(self) -> None:
        """Runs every kind of request once, so that no user's request is the first: greedy, sampled with top_p and with
        logprobs, one and two at a time, on the base and on each adapter.
        """
        for version in (None, *self.adapters.current.values()):
            for kind in ({"temperature": 0.0}, {"temperature": 1.0, "top_p": 0.9}, {"temperature": 0.0, "logprobs": 1}):
                params = SamplingParams(max_tokens=2, ignore_eos=True, **kind)  # type: ignore[arg-type]
                for batch in (1, 2):
                    await asyncio.gather(*(self._once(f"warm-up-{row}", params, version) for row in range(batch)))
        await self.llm.reset_prefix_cache()
        if self._core is not None:
            self._core.hide_sockets()

    def close(self) -> None:
        """Stops the core and gives back its memory."""
        if self._core is not None:
            self._core.stop()
        self.llm.shutdown()

    async def _once(self, request: str, params: SamplingParams, version: Any) -> None:
        prompt = TokensPrompt(prompt_token_ids=[1, 2, 3])
        async for _ in self.llm.generate(prompt, params, request, lora_request=version):
            pass


async def start_concurrent_engine(model: Path, options: EngineOptions, core: CoreProcess | None) -> ConcurrentEngine:
    """The engine, loaded, on the running event loop, which stays free meanwhile. core: of the same model and options,
    however far it is; None has vLLM start its own processes, as GPUs want it. The process must be prepared."""
    try:
        config = await asyncio.to_thread(_engine_config, model, options)
        if core is None:
            return ConcurrentEngine(AsyncLLM.from_vllm_config(config, disable_log_stats=True), None)
        await asyncio.to_thread(core.wait_until_loaded)
        llm = AsyncLLM.from_vllm_config(config, client_addresses=core.client_addresses, disable_log_stats=True)
    except BaseException:
        if core is not None:
            core.stop()
        raise
    return ConcurrentEngine(llm, core)


def _engine_config(model: Path, options: EngineOptions) -> VllmConfig:
    return AsyncEngineArgs(**engine_arguments(model, options)).create_engine_config()
