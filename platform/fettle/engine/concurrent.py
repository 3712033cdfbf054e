"""vLLM answering many callers at once (AsyncLLM), with its core in a thread of this process or in one of its own."""

from __future__ import annotations

import asyncio
import copy
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vllm import SamplingParams
from vllm.config import VllmConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.inputs import TokensPrompt
from vllm.v1.engine import EngineCoreRequestType
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.core import EngineCoreProc, EngineShutdownState
from vllm.v1.engine.utils import EngineZmqAddresses
from vllm.v1.executor import Executor

from fettle.engine.adapters import Adapters
from fettle.engine.env import EngineOptions, engine_arguments

_STOP_TIMEOUT_S = 10


class ConcurrentEngine:
    """AsyncLLM and its adapters; made by `start_concurrent_engine`, on the event loop that will use it."""

    def __init__(self, llm: AsyncLLM, core: CoreThread | None) -> None:
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


async def start_concurrent_engine(model: Path, options: EngineOptions) -> ConcurrentEngine:
    """The engine, loaded, on the running event loop, which stays free meanwhile. The process must be prepared."""
    config = await asyncio.to_thread(_engine_config, model, options)
    if options.isolated:
        return ConcurrentEngine(AsyncLLM.from_vllm_config(config, disable_log_stats=True), None)
    core = CoreThread(config)
    try:
        await asyncio.to_thread(core.wait_until_loaded)
        llm = AsyncLLM.from_vllm_config(config, client_addresses=core.client_addresses, disable_log_stats=True)
    except BaseException:
        core.stop()
        raise
    return ConcurrentEngine(llm, core)


class CoreThread:
    """vLLM's engine core in a thread, spoken to over the sockets it also uses between processes.

    AsyncLLM offers only a process. On a CPU that costs a second import of vLLM (9 to 13 s of a 23 s start on 2 cores)
    and 600 MB, for no throughput: 2,700 tokens/s at 32 sequences either way (base-8m, 2026-11), since torch's kernels
    release the interpreter. Only the handshake with a parent process is left out of vLLM's own class.
    """

    def __init__(self, config: VllmConfig) -> None:
        self._sockets = tempfile.mkdtemp(prefix="fettle-engine-")
        self.client_addresses = {
            "input_address": f"ipc://{self._sockets}/input",
            "output_address": f"ipc://{self._sockets}/output",
        }
        # A copy, because AsyncLLM adds the core's cache blocks to its own config: shared, they would count twice.
        self._config = copy.deepcopy(config)
        self._core: _Core | None = None
        self._failure: BaseException | None = None
        self._loaded = threading.Event()
        self._thread = threading.Thread(target=self._run, name="engine-core", daemon=True)
        self._thread.start()

    def wait_until_loaded(self) -> None:
        """Returns once the weights are loaded; raises what loading raised."""
        self._loaded.wait()
        if self._failure is not None:
            raise self._failure

    def hide_sockets(self) -> None:
        """Removes the sockets' files, once a request has gone both ways: a killed process leaves none behind."""
        shutil.rmtree(self._sockets, ignore_errors=True)

    def stop(self) -> None:
        """Aborts what runs and ends the thread."""
        if self._core is not None and self._thread.is_alive():
            self._core.shutdown_state = EngineShutdownState.REQUESTED
            self._core.input_queue.put_nowait((EngineCoreRequestType.WAKEUP, None))
            self._thread.join(_STOP_TIMEOUT_S)
        self.hide_sockets()

    def _run(self) -> None:
        """Loads, then serves until stopped or failed; in one thread, since some of torch's settings are a thread's."""
        try:
            self._core = _Core(self._config, self.client_addresses)
        except BaseException as error:  # handed to wait_until_loaded
            self._failure = error
            return
        finally:
            self._loaded.set()
        try:
            self._core.run_busy_loop()
        except SystemExit:  # how the loop ends when told to
            pass
        except Exception:
            self._core._send_engine_dead()  # AsyncLLM then fails every request and says so in `errored`
            raise
        finally:
            self._core.shutdown()


class _Core(EngineCoreProc):
    """vLLM's core, given the addresses that a parent process would tell it."""

    def __init__(self, config: VllmConfig, addresses: dict[str, str]) -> None:
        self._given = EngineZmqAddresses(inputs=[addresses["input_address"]], outputs=[addresses["output_address"]])
        super().__init__(config, True, "", Executor.get_class(config), False)

    @contextmanager
    def _perform_handshakes(self, *_: Any) -> Iterator[EngineZmqAddresses]:
        yield self._given


def _engine_config(model: Path, options: EngineOptions) -> VllmConfig:
    return AsyncEngineArgs(**engine_arguments(model, options)).create_engine_config()
