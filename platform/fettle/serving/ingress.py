"""The Ray Serve deployment that HTTP reaches: the gate, without an engine."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp

from fettle.output import print_into
from fettle.registry.folder import FolderRegistry
from fettle.serving.access import Access
from fettle.serving.cluster_state import Asleep, http_host
from fettle.serving.engines import Engines, Replicas
from fettle.serving.gate import Gate
from fettle.serving.keeper import ENGINES, Now
from fettle.serving.keys import KeyFile
from fettle.serving.logs import log_requests
from fettle.serving.metrics import RequestMetrics
from fettle.serving.port import check_open
from fettle.serving.several import Behind, Several
from fettle.serving.traffic import Traffic
from fettle.serving.versions import Versions

_MAX_ONGOING = 10_000
_REFRESH_S = 0.5
_KEEPER_S = 2.0

logger = logging.getLogger(__name__)


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
    whose adapters go over it. followed: those whose versions `keeper` has engines for, by name and registry. keys: the
    file of those that are taken; without one everybody is. log: file for everything this process prints; beside it is
    `*.access.jsonl`, with a line for each request."""

    def __init__(
        self,
        models: list[tuple[DeploymentHandle, tuple[str, ...], Path | None]],
        followed: list[tuple[str, Path]],
        keeper: DeploymentHandle | None,
        keys: str | None,
        log: str | None,
    ) -> None:
        if log is not None:
            print_into(log)
        log_requests(log)
        if keys is None:
            check_open(http_host(), None)
        served = [
            Behind(_engines_by(handle), names, FolderRegistry(registry) if registry is not None else None)
            for handle, names, registry in models
        ]
        self._keeper, self._versions = keeper, {name: Versions(name, _engines_in) for name, _ in followed}
        served += [Behind(self._versions[name], (name,), FolderRegistry(registry)) for name, registry in followed]
        registries = [one.registry for one in served if one.registry is not None]
        self._traffic = Traffic(registries, [name for _, names, _ in models for name in names])
        engines: Engines = Several(served) if len(served) > 1 else served[0].engines
        access = Access(KeyFile(keys) if keys is not None else None)
        self._gate = Gate(engines, access, self._traffic, RequestMetrics(), registries)
        self._refreshing: asyncio.Task[None] | None = None

    async def __serve_build_asgi_app__(self) -> ASGIApp:
        await self._know()
        self._refreshing = asyncio.create_task(self._refresh())
        return self._gate

    async def _refresh(self) -> None:
        while True:
            await self._traffic.refresh()
            await self._know()
            await asyncio.sleep(_REFRESH_S)

    async def _know(self) -> None:
        """What the names of followed models mean by now; while the keeper is away, what they meant."""
        for name, versions in self._versions.items():
            try:
                now: Now = await asyncio.wait_for(self._keeper.now.remote(name), _KEEPER_S)  # type: ignore[union-attr]
                await versions.know(now.live, now.refused)
            except Exception as error:
                if not isinstance(error, TimeoutError):  # it is not there yet, or its successor is not
                    logger.error("the keeper does not say what %s is: %s: %s", name, type(error).__name__, error)


def _engines_by(handle: DeploymentHandle) -> Engines:
    return Replicas(handle, Asleep(handle.app_name, handle.deployment_name))


def _engines_in(app: str) -> Engines:
    return _engines_by(serve.get_deployment_handle(ENGINES, app_name=app))
