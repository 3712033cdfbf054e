"""Ray Serve's proxy: how it asks the ingress, and what it takes of a connection before there is a request: so many
bytes of headers, within a time.

uvicorn with httptools bounds neither: 100 MiB of headers took 1.4 GB of the proxy, before any key was asked for, and
headers that never end were waited for without end (Ray 2.60, uvicorn 0.54, 2026-11).
"""

from __future__ import annotations

import os
import re
from asyncio import TimerHandle, Transport

from starlette.middleware import Middleware
from uvicorn.protocols.http import auto, httptools_impl

MAX_HEADER_BYTES = 64 << 10
HEADERS_TIMEOUT_S = 30.0
_LINGER_S = 1.0
"""For who is still sending a body to read that it was refused: closed at once, the answer would be lost."""
_MESSAGE_BYTES = 256 << 20  # from the ingress to its proxy: all that has come meanwhile is one message
_ID = re.compile(rb"[!-~]{1,128}")
SETTINGS = {
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": f"{__name__}:guarded",
    "RAY_SERVE_PROXY_USE_GRPC": "1",
    "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(_MESSAGE_BYTES),
}
"""Of the environment of a Ray that serves; `cluster.yaml`, the image and docs/serving.md say the same."""


def guard_proxies() -> None:
    """Makes proxies of a Ray that is started from here call `guarded` as they start, and ask by gRPC, as the ingress
    does (`engines`): a fifth more tokens of 32 streams. One that runs already was started with its own settings."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)


def guarded() -> list[Middleware]:
    """Called in the proxy's process. Gives no middlewares: those see requests only."""
    auto.AutoHTTPProtocol = Guarded
    return []


class Guarded(httptools_impl.HttpToolsProtocol):
    """One connection."""

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._waiting: TimerHandle | None = None
        self._begin()

    def connection_lost(self, exc: Exception | None) -> None:
        self._waited()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_in_headers:
            self._num_bytes += len(data)
        super().data_received(data)
        if self._is_in_headers and self._num_bytes > MAX_HEADER_BYTES and not self.transport.is_closing():
            self.send_400_response(f"The request's headers are over {MAX_HEADER_BYTES} bytes.")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"x-request-id" and _ID.fullmatch(value) is None:
            return  # Ray Serve's proxy fails over it, and gives one of its own where there is none
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._waited()
        self._is_in_headers = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._is_in_headers, self._num_bytes = True, 0

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self._is_in_headers and not self.transport.is_closing():  # answered before its body was there
            self.loop.call_later(_LINGER_S, self.transport.close)

    def _begin(self) -> None:
        self._is_in_headers, self._num_bytes = True, 0
        self._waited()
        self._waiting = self.loop.call_later(HEADERS_TIMEOUT_S, self._late)

    def _waited(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _late(self) -> None:
        self.transport.close()
