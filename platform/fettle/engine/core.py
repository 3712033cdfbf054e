"""vLLM's engine core in a process of its own, which starts while its parent has yet to import vLLM.

AsyncLLM offers such a process too, after its own import, and starts are 10 s longer for it on two cores. In a thread of
the parent it starts as fast, and waits for the interpreter: with eight adapters over a small model an endpoint then
writes 0.6 times as many tokens (2026-12). Only the handshake with a parent is left out of vLLM's own class; the sockets
are those it always uses between processes. Importing this imports no vLLM.
"""

from __future__ import annotations

import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from fettle.engine.env import EngineOptions, engine_arguments
from fettle.errors import FettleError

_STOP_TIMEOUT_S = 10

logger = logging.getLogger(__name__)


class CoreProcess:
    """Loads the model in a folder, from now on; AsyncLLM is given `client_addresses`. It ends with this process,
    however that ends. The environment must be prepared."""

    def __init__(self, model: Path, options: EngineOptions) -> None:
        self._sockets = tempfile.mkdtemp(prefix="fettle-engine-")
        self.client_addresses = {
            "input_address": f"ipc://{self._sockets}/input",
            "output_address": f"ipc://{self._sockets}/output",
        }
        self._is_stopped = False
        ours, its = socket.socketpair()
        with its:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__, str(its.fileno())],
                pass_fds=[its.fileno()],
                env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
                start_new_session=True,  # Ctrl-C is the endpoint's, which lets what runs end
            )
        self._line = Connection(ours.detach())
        self._line.send((model, options, self.client_addresses))

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def wait_until_loaded(self) -> None:
        """Returns once the weights are loaded; raises what loading raised, or FettleError where the process ended."""
        try:
            failure = self._line.recv()
        except (EOFError, OSError):
            code = self._process.wait()
            failure = FettleError(f"the engine's process ended with {code} while it loaded the model")
        if failure is not None:
            raise failure
        threading.Thread(target=self._watch, name="engine-watch", daemon=True).start()

    def hide_sockets(self) -> None:
        """Removes the sockets' files, once a request has gone both ways: a killed process leaves none behind."""
        shutil.rmtree(self._sockets, ignore_errors=True)

    def stop(self) -> None:
        """Ends the process, and what runs in it."""
        self._is_stopped = True
        self._process.terminate()
        try:
            self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._line.close()
        self.hide_sockets()

    def _watch(self) -> None:
        """Tells AsyncLLM of the process's end as the core does of its own failures."""
        import zmq
        from vllm.v1.engine.core import EngineCoreProc

        with zmq.Context() as context, context.socket(zmq.PUSH) as output:
            output.connect(self.client_addresses["output_address"])
            code = self._process.wait()
            output.linger = 0 if self._is_stopped else 1000 * _STOP_TIMEOUT_S
            if not self._is_stopped:
                logger.error("the engine's process ended with %s", code)
                output.send(EngineCoreProc.ENGINE_CORE_DEAD)


def main() -> None:
    """The process: given its end of the line, over which it is told what to load and tells whether it did."""
    line = Connection(int(sys.argv[1]))
    model, options, addresses = line.recv()
    threading.Thread(target=_end_with, args=(line,), name="parent-watch", daemon=True).start()
    try:
        core = _loaded(model, options, addresses)
    except BaseException as error:
        traceback.print_exc()
        line.send(error if isinstance(error, FettleError) else FettleError(f"{type(error).__name__}: {error}"))
        return
    line.send(None)
    try:
        core.run_busy_loop()
    except SystemExit:  # how the loop ends when told to
        pass
    except Exception:
        core._send_engine_dead()  # AsyncLLM then fails every request and says so in `errored`
        raise
    finally:
        core.shutdown()


def _end_with(line: Connection) -> None:
    """Nothing more comes over the line but its end."""
    with suppress(EOFError, OSError):
        line.recv()
    os._exit(0)


def _loaded(model: Path, options: EngineOptions, addresses: dict[str, str]) -> Any:
    """vLLM's core, given the addresses that a parent would tell it in a handshake."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.utils.system_utils import set_process_title
    from vllm.v1.engine.core import EngineCoreProc
    from vllm.v1.engine.utils import EngineZmqAddresses
    from vllm.v1.executor import Executor

    set_process_title("EngineCore")  # as vLLM's own is called

    given = EngineZmqAddresses(inputs=[addresses["input_address"]], outputs=[addresses["output_address"]])

    class Core(EngineCoreProc):
        @contextmanager
        def _perform_handshakes(self, *_: Any) -> Iterator[EngineZmqAddresses]:
            yield given

    config = AsyncEngineArgs(**engine_arguments(model, options)).create_engine_config()
    return Core(config, True, "", Executor.get_class(config), False)


if __name__ == "__main__":
    main()
