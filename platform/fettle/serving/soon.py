"""An endpoint that starts beside work that has yet to end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fettle.serving.app import Endpoint, serve

_STOP_TIMEOUT_S = 20  # one that is still starting stops once it is there; where Ray has been killed it never is


class Soon:
    """The endpoint to be; made by `serve_soon`."""

    def __init__(self) -> None:
        self._up: Future[Endpoint] = Future()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self, model: Path, **told: Any) -> None:
        """Has it start, and returns at once; called again it does nothing. model, told: as for `serve`."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, args=(model, told), name="endpoint", daemon=True)
            self._thread.start()

    def endpoint(self) -> Endpoint:
        """Once it is warm; it must have begun. Raises as `serve`."""
        return self._up.result()

    def end(self) -> None:
        """Ends it, if it has begun."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(_STOP_TIMEOUT_S)

    def _serve(self, model: Path, told: dict[str, Any]) -> None:
        try:
            with serve(model, **told) as endpoint:
                self._up.set_result(endpoint)
                self._ended.wait()
        except BaseException as error:
            if self._up.done():
                raise
            self._up.set_exception(error)


@contextmanager
def serve_soon() -> Iterator[Soon]:
    """An endpoint for a model that is not there yet, gone when the block is left; on the Ray cluster that we are
    connected to."""
    soon = Soon()
    try:
        yield soon
    finally:
        soon.end()
