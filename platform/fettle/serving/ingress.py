"""The Ray Serve deployment that HTTP reaches: the gate, without an engine."""

from __future__ import annotations

import asyncio
from pathlib import Path

from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp

from fettle.output import print_into
from fettle.registry.folder import FolderRegistry
from fettle.serving.access import Access
from fettle.serving.engines import Engines, Replicas
from fettle.serving.gate import Gate
from fettle.serving.keys import KeyFile
from fettle.serving.logs import log_requests
from fettle.serving.metrics import RequestMetrics
from fettle.serving.several import Behind, Several
from fettle.serving.traffic import Traffic

_MAX_ONGOING = 10_000
_REFRESH_S = 0.5


@serve.deployment(
    name="ingress",
    max_ongoing_requests=_MAX_ONGOING,
    health_check_period_s=2,
    graceful_shutdown_wait_loop_s=0.1,
    graceful_shutdown_timeout_s=10,
    ray_actor_options={"num_cpus": 0},
)
@serve.ingress()
class Ingress:
    """models: of each base its engines' deployment, the names that are always there, and the folder of the registry
    whose adapters go over it. keys: the file of those that are taken; without one everybody is. log: file for
    everything this process prints; beside it is `*.access.jsonl`, with a line for each request."""

    def __init__(
        self,
        models: list[tuple[DeploymentHandle, tuple[str, ...], Path | None]],
        keys: str | None,
        log: str | None,
    ) -> None:
        if log is not None:
            print_into(log)
        log_requests(log)
        served = [
            Behind(Replicas(handle), names, FolderRegistry(registry) if registry is not None else None)
            for handle, names, registry in models
        ]
        registries = [one.registry for one in served if one.registry is not None]
        self._traffic = Traffic(registries)
        engines: Engines = Several(served) if len(served) > 1 else served[0].engines
        access = Access(KeyFile(keys) if keys is not None else None)
        self._gate = Gate(engines, access, self._traffic, RequestMetrics(), registries)
        self._refreshing: asyncio.Task[None] | None = None

    async def __serve_build_asgi_app__(self) -> ASGIApp:
        self._refreshing = asyncio.create_task(self._refresh())
        return self._gate

    async def _refresh(self) -> None:
        while True:
            await self._traffic.refresh()
            await asyncio.sleep(_REFRESH_S)
