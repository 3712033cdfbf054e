"""Who asks, and whether they may now: the bearer token's key, its scope, and its limits."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter
from starlette.responses import JSONResponse

from fettle.serving.failures import DENIED, failure
from fettle.serving.keys import Key, KeyFile, Scope

_REQUESTS, _TOKENS = "requests", "tokens"


class Refused(Exception):
    """response: what the caller is told."""

    def __init__(self, response: JSONResponse) -> None:
        super().__init__(response.status_code)
        self.response = response


class Access:
    """Of one ingress: limits count what has come to it. keys: None takes everybody for one without limits."""

    def __init__(self, keys: KeyFile | None) -> None:
        self._keys = keys
        self._windows = FixedWindowRateLimiter(MemoryStorage())
        self._running: Counter[str] = Counter()

    @property
    def has_keys(self) -> bool:
        """Whether a request wants one."""
        return self._keys is not None

    def known(self, headers: Iterable[tuple[bytes, bytes]], scope: Scope) -> Key | None:
        """The key of a request; None where there are none at all. Raises Refused for no key, a wrong one, and one
        without the scope."""
        if self._keys is None:
            return None
        told = next((value for name, value in headers if name.lower() == b"authorization"), b"").decode("latin-1")
        kind, _, secret = told.partition(" ")
        key = self._keys.find(secret.strip()) if kind.lower() == "bearer" else None
        if key is None:
            wants = "this endpoint wants a key: send `Authorization: Bearer KEY`"
            raise Refused(_unknown("the key is not known here" if told else wants))
        if not key.may(scope):
            why = f"the key '{key.name}' may not {scope}; its scopes are {', '.join(key.scopes)}"
            raise Refused(failure(403, why, kind=DENIED))
        return key

    def begin(self, key: Key | None) -> None:
        """Counts a request in. Raises Refused where the key has no more of anything. Each is to be `end`ed."""
        if key is None:
            return
        if key.concurrent is not None and self._running[key.name] >= key.concurrent:
            raise Refused(_too_many(f"{key.concurrent} requests of '{key.name}' are running already", 1))
        if key.tokens_per_minute is not None:
            item = RateLimitItemPerMinute(key.tokens_per_minute)
            if not self._windows.test(item, _TOKENS, key.name):
                self._refuse(item, _TOKENS, key)
        if key.requests_per_minute is not None:
            item = RateLimitItemPerMinute(key.requests_per_minute)
            if not self._windows.test(item, _REQUESTS, key.name):
                self._refuse(item, _REQUESTS, key)
            self._windows.hit(item, _REQUESTS, key.name)
        self._running[key.name] += 1

    def end(self, key: Key | None, tokens: int) -> None:
        """The request has ended. tokens: of its prompt and its answers; they may take the key beyond its limit, and it
        then waits for the next minute."""
        if key is None:
            return
        self._running[key.name] -= 1
        if key.tokens_per_minute is not None and tokens:
            self._windows.hit(RateLimitItemPerMinute(key.tokens_per_minute), _TOKENS, key.name, cost=tokens)

    def _refuse(self, item: RateLimitItemPerMinute, what: str, key: Key) -> None:
        wait = math.ceil(max(1.0, self._windows.get_window_stats(item, what, key.name).reset_time - time.time()))
        raise Refused(_too_many(f"'{key.name}' has had its {item.amount} {what} of this minute", wait))


def _unknown(why: str) -> JSONResponse:
    response = failure(401, why, kind="AuthenticationError")
    response.headers["WWW-Authenticate"] = "Bearer"
    return response


def _too_many(why: str, wait_s: int) -> JSONResponse:
    return failure(429, why, kind="RateLimitError", retry_after_s=wait_s)
