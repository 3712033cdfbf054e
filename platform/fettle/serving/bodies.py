"""The bodies of requests, as they come: whole, in time, JSON, and not all of the memory there is."""

from __future__ import annotations

import asyncio
import json
import math
import time
from typing import Any

from starlette.types import Receive

from fettle.serving.access import Refused
from fettle.serving.failures import UNAVAILABLE, failure
from fettle.serving.limits import BODY_TIMEOUT_S, MAX_BODIES_BYTES, MAX_BODY_BYTES, too_much

_WAIT_S = 1


class Bodies:
    """Of one ingress, which holds MAX_BODIES_BYTES at most of those that are still coming."""

    def __init__(self) -> None:
        self._held = 0

    async def wanted(self, receive: Receive) -> dict[str, Any]:
        """The request's body. Raises Refused for what is no JSON object, holds too much, or does not come."""
        try:
            body = await self._read(receive)
            wanted = json.loads(body, parse_float=_finite, parse_constant=_finite)
            if b"\\ud" in body.lower():  # half a pair is no text, and nobody could write it down
                json.dumps(wanted, ensure_ascii=False).encode()
        except ValueError as error:  # JSONDecodeError and UnicodeDecodeError
            raise Refused(failure(400, f"the request's body is not valid JSON ({error})")) from None
        except RecursionError:
            raise Refused(failure(400, "the request's body is nested too deeply")) from None
        if not isinstance(wanted, dict):
            raise Refused(failure(400, "the request's body must be a JSON object"))
        if not isinstance(wanted.get("stream", False), (bool, type(None))):  # vLLM would take "true" and 1 for it
            raise Refused(failure(400, "stream: neither true nor false", param="stream"))
        if (found := too_much(wanted)) is not None:
            raise Refused(failure(400, found[1], param=found[0]))
        return wanted

    async def _read(self, receive: Receive) -> bytes:
        """All of it. Raises Refused as soon as it is over the limit, and where it does not come."""
        body, until = bytearray(), time.monotonic() + BODY_TIMEOUT_S
        try:
            while True:
                try:
                    message = await asyncio.wait_for(receive(), max(0.0, until - time.monotonic()))
                except TimeoutError:
                    why = f"the request's body had not come within {BODY_TIMEOUT_S:g} s"
                    raise Refused(failure(408, why, kind="RequestTimeoutError")) from None
                if message["type"] == "http.disconnect":  # who has left is not to be answered by an engine
                    raise Refused(failure(400, "the request's body was cut"))
                part = message.get("body", b"")
                body += part
                self._held += len(part)
                if len(body) > MAX_BODY_BYTES:
                    raise Refused(failure(413, f"the request's body is over {MAX_BODY_BYTES} bytes"))
                if not message.get("more_body", False):
                    return bytes(body)
                if self._held > MAX_BODIES_BYTES:
                    why = f"over {MAX_BODIES_BYTES} bytes of bodies that are still coming are held already"
                    raise Refused(failure(503, why, kind=UNAVAILABLE, retry_after_s=_WAIT_S))
        finally:
            self._held -= len(body)


def _finite(told: str) -> float:
    """A number with a fraction or exponent. Raises ValueError for NaN, Infinity and 1e999: what is asked next may fail
    over them, and JSON has none."""
    number = float(told)
    if not math.isfinite(number):
        raise ValueError(f"{told[:20]} is no finite number")
    return number
