"""What the ingress wants to know of Ray Serve itself."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import ray
from ray import serve
from ray.serve.schema import DeploymentStatus

_KNOWN_FOR_S = 1.0


class Asleep:
    """Whether a deployment has scaled to zero by itself, which whoever asks it would undo."""

    def __init__(self, app: str, deployment: str) -> None:
        self._app, self._deployment = app, deployment
        self._looked, self._is_asleep, self._looking = float("-inf"), False, asyncio.Lock()

    async def __call__(self) -> bool:
        """As it was a second ago at most."""
        async with self._looking:
            if time.monotonic() - self._looked > _KNOWN_FOR_S:
                self._is_asleep = await asyncio.to_thread(self._look)
                self._looked = time.monotonic()
        return self._is_asleep

    def _look(self) -> bool:
        app = serve.status().applications.get(self._app)
        told = app.deployments.get(self._deployment) if app is not None else None
        if told is None or told.status != DeploymentStatus.HEALTHY:
            return False
        return not any(count for state, count in told.replica_states.items() if state not in ("STOPPING", "STOPPED"))


def http_host() -> str:
    """The address that Ray Serve listens on, from a replica of it."""
    # Ray Serve tells it in public over its dashboard alone, which need not be there.
    controller = ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve")
    config: Any = ray.get(controller.get_http_config.remote())
    return str(config.host)
