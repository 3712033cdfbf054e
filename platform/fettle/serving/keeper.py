"""The Ray Serve deployment that has engines started and ended for models whose versions a registry has."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from ray import serve
from ray.serve.schema import ApplicationStatus, LoggingConfig

from fettle.errors import FettleError
from fettle.output import print_into
from fettle.registry.folder import Version
from fettle.registry.reference import PRODUCTION
from fettle.serving.blue_green import BlueGreen, Live, State
from fettle.serving.followed import Followed, prefix_of
from fettle.serving.heads.replica import HeadReplica
from fettle.serving.replica import Replica, reason_in
from fettle.serving.resolve import ServedModel

ENGINES = "model"
"""The deployment of a version's engines, in an application of its own."""
QUIET = LoggingConfig(log_level="WARNING", enable_access_log=False)
_STEP_S = 0.5
_DRAIN_S = 120  # for the answers that an old version has begun
_PHASES = {
    ApplicationStatus.RUNNING: "running",
    ApplicationStatus.UNHEALTHY: "running",
    ApplicationStatus.DEPLOY_FAILED: "failed",
    ApplicationStatus.DELETING: "ending",
}

logger = logging.getLogger(__name__)


class Now(NamedTuple):
    """Of one model: what its aliases mean, and why some mean something else than the registry says."""

    live: dict[str, Live]
    refused: dict[str, str]


@serve.deployment(
    name="keeper",
    health_check_period_s=2,
    graceful_shutdown_wait_loop_s=0.1,
    graceful_shutdown_timeout_s=10,
    ray_actor_options={"num_cpus": 0},
)
class Keeper:
    """Counts as started once every model's production is warm. log: file for everything it and the engines print.
    Raises FettleError where one of them does not start."""

    async def __init__(self, followed: Sequence[Followed], log: str | None) -> None:  # type: ignore[misc]
        if log is not None:
            print_into(log)
        self._models = {one.name: BlueGreen(one, ServeApps(one, log)) for one in followed}
        await self._production()
        self._stepping = asyncio.create_task(self._step())

    async def _production(self) -> None:
        """Once all of it is warm. Raises FettleError with the reason where one does not start."""
        for name, model in self._models.items():
            while PRODUCTION not in model.live:
                try:
                    await model.step()
                except OSError as error:  # engines of an earlier keeper answer meanwhile
                    logger.error("%s: %s", name, error)
                if (why := model.refused.get(PRODUCTION)) is not None and PRODUCTION not in model.live:
                    await asyncio.to_thread(_end, [name])  # those of other aliases may be starting
                    raise FettleError(f"{name} does not start: {why}")
                await asyncio.sleep(_STEP_S)

    async def now(self, name: str) -> Now:
        """Of one of the models."""
        model = self._models[name]
        return Now(model.live, model.refused)

    async def _step(self) -> None:
        while True:
            await asyncio.sleep(_STEP_S)
            for name, model in self._models.items():
                try:
                    await model.step()
                except Exception as error:  # of a file system that is away, or of a controller that is
                    logger.error("%s stays as it is: %s: %s", name, type(error).__name__, error)

    async def __del__(self) -> None:
        """Engines end with their endpoint, and not with the keeper's process alone, whose successor finds them."""
        with suppress(AttributeError):
            self._stepping.cancel()
        await asyncio.to_thread(_end_with, serve.get_replica_context().app_name, list(self._models))


class ServeApps:
    """Apps over Ray Serve. Its calls block, so they are made in threads."""

    def __init__(self, followed: Followed, log: str | None) -> None:
        self._followed, self._log = followed, log
        self._starting: set[asyncio.Task[None]] = set()

    async def states(self) -> dict[str, State]:
        """See Apps."""
        told = await asyncio.to_thread(serve.status)
        return {name: _state(one) for name, one in told.applications.items()}

    async def start(self, app: str, version: Version) -> None:
        """See Apps."""
        served, options = await asyncio.to_thread(self._followed.serving, version)
        kind: Any = Replica if isinstance(served, ServedModel) else HeadReplica
        options_of = {"max_constructor_retry_count": 1, "graceful_shutdown_timeout_s": _DRAIN_S}
        deployment = kind.options(**options_of | dict(self._followed.deployment) | {"name": ENGINES})
        task = asyncio.create_task(asyncio.to_thread(_run, deployment.bind(served, options, self._log), app))
        self._starting.add(task)
        task.add_done_callback(self._starting.discard)

    async def end(self, app: str) -> None:
        """See Apps."""
        await asyncio.to_thread(serve.delete, app, _blocking=False)


def _run(bound: Any, app: str) -> None:
    """Returns once it runs, or does not; which of both `states` tells."""
    try:
        serve.run(bound, name=app, route_prefix=None, logging_config=QUIET)
    except Exception as error:
        logger.error("%s does not run: %s", app, error)


def _state(told: Any) -> State:
    why = reason_in("\n".join(one.message for one in told.deployments.values())) or told.message
    return State(_PHASES.get(told.status, "starting"), why)  # type: ignore[arg-type]


def _end_with(app: str, names: list[str]) -> None:
    there = serve.status().applications
    if app not in there or there[app].status == ApplicationStatus.DELETING:
        _end(names)


def _end(names: list[str]) -> None:
    """Of the models of those names all engines that there are."""
    for app in serve.status().applications:
        if any(app.startswith(prefix_of(name)) for name in names):
            serve.delete(app, _blocking=False)
