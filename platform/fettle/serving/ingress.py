"""The Ray Serve deployment that HTTP reaches: the gate, without an engine."""

from __future__ import annotations

from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp

from fettle.output import print_into
from fettle.serving.engines import Replicas
from fettle.serving.gate import Gate

_MAX_ONGOING = 10_000


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
    """model: the engine's deployment. log: file for everything this process prints."""

    def __init__(self, model: DeploymentHandle, log: str | None) -> None:
        if log is not None:
            print_into(log)
        self._gate = Gate(Replicas(model))

    async def __serve_build_asgi_app__(self) -> ASGIApp:
        return self._gate
