"""What Prometheus is told, through the agent of each Ray node (`http://NODE:PORT/metrics`, all processes in one)."""

from __future__ import annotations

from collections.abc import Mapping

from ray.util.metrics import Counter, Gauge, Histogram

_OF_REQUEST = ("model", "version", "key")
_SECONDS = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0]
_SECONDS_A_TOKEN = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0]


class RequestMetrics:
    """Of the ingress. model: the name that was asked for, where it is known; version: what answered; key: by its name.
    Names that mean nothing are all called "unknown", so that who invents them makes no new series."""

    def __init__(self) -> None:
        self._requests = Counter("fettle_requests", "Requests that ended.", (*_OF_REQUEST, "status"))
        self._tokens = Counter(
            "fettle_tokens", "Tokens read (prompt) and written (completion).", (*_OF_REQUEST, "kind")
        )
        self._first = Histogram("fettle_first_part_seconds", "Until an answer began.", _SECONDS, _OF_REQUEST)
        self._whole = Histogram("fettle_request_seconds", "Until an answer had ended.", _SECONDS, _OF_REQUEST)
        self._each = Histogram(
            "fettle_token_seconds", "A written token after the first.", _SECONDS_A_TOKEN, _OF_REQUEST
        )
        self._running = Gauge("fettle_running_requests", "Requests that run or wait.")
        self._count = 0

    def begin(self) -> None:
        """A request has come."""
        self._count += 1
        self._running.set(self._count)

    def end(
        self, tags: Mapping[str, str], status: int, first_s: float | None, whole_s: float, prompt: int, completion: int
    ) -> None:
        """It has ended; tags: model, version and key."""
        self._count -= 1
        self._running.set(self._count)
        told = dict(tags)
        self._requests.inc(1, {**told, "status": str(status)})
        if status != 200:
            return
        self._whole.observe(whole_s, told)
        for kind, number in (("prompt", prompt), ("completion", completion)):
            if number:
                self._tokens.inc(number, {**told, "kind": kind})
        if first_s is not None:
            self._first.observe(first_s, told)
            if completion > 1 and whole_s > first_s:
                self._each.observe((whole_s - first_s) / (completion - 1), told)


class AdapterMetrics:
    """Of a replica's published adapters."""

    def __init__(self) -> None:
        self._loads = Counter("fettle_adapter_loads", "Versions loaded, refused or failed.", ("adapter", "outcome"))
        self._seconds = Histogram("fettle_adapter_load_seconds", "Copy, check and load.", _SECONDS)
        self._evictions = Counter(
            "fettle_adapter_evictions", "Versions that made room, or that nothing means.", ("adapter",)
        )
        self._held = Gauge("fettle_adapters_held", "Versions that the engine holds.")

    def loaded(self, adapter: str, outcome: str, seconds: float) -> None:
        """adapter: its name, without a version."""
        self._loads.inc(1, {"adapter": adapter, "outcome": outcome})
        if outcome == "loaded":
            self._seconds.observe(seconds)

    def dropped(self, adapter: str) -> None:
        """It has left."""
        self._evictions.inc(1, {"adapter": adapter})

    def held(self, count: int) -> None:
        """So many are there."""
        self._held.set(count)
