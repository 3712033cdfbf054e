"""The Ray Serve application, and an endpoint that starts and stops with a `with` block."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
import ray
import requests
from ray import serve as ray_serve
from ray.serve import Application
from ray.serve.config import HTTPOptions, ProxyLocation

from fettle.cluster import available_cpus, available_gpus, ray_session
from fettle.engine.env import EngineOptions, device
from fettle.errors import DoesNotFit, FettleError, UserError
from fettle.serving.followed import Followed, resolve_followed
from fettle.serving.front import guard_proxies
from fettle.serving.heads.replica import HeadReplica
from fettle.serving.ingress import Ingress
from fettle.serving.keeper import QUIET, Keeper
from fettle.serving.keys import KeyFile
from fettle.serving.logs import log_into, new_log
from fettle.serving.port import check_open, check_port
from fettle.serving.replica import Replica, reason_in
from fettle.serving.resolve import PLACES, ServedModel
from fettle.serving.served import Served, resolved

APP = "fettle"
_FREE_CPU_TIMEOUT_S = 20
_STOP_TIMEOUT_S = 20
_KNOWN_TIMEOUT_S = 60  # to the ingress: it asks every half second, for two seconds
_HEAD = "node:__internal_head__"  # Ray gives its head node this resource
_CPUS_OF_A_REPLICA = 2  # its engine and what feeds it: two replicas where there are twice as many

Say = Callable[[str], None]


@dataclass
class Endpoint:
    """A live endpoint: url without a trailing slash, the names it answers to, and the file of the libraries' noise."""

    url: str
    served: Served
    log: Path
    _stop: Callable[[], None] = field(repr=False, default=lambda: None)

    @property
    def names(self) -> tuple[str, ...]:
        """Model names, the base first."""
        return self.served.names

    def stop(self) -> None:
        """Ends the endpoint; leaving the `with` block does it too. Requests under way get up to 10 s."""
        self._stop()


@contextmanager
def serve(
    model: str | Path,
    *,
    port: int = 8000,
    host: str = "127.0.0.1",
    name: str | None = None,
    adapters: Mapping[str, str | Path] | None = None,
    registry: str | Path | None = None,
    also: Sequence[str] = (),
    places: int = PLACES,
    replicas: int | None = None,
    tool_parser: str | None = None,
    keys: str | Path | None = None,
    options: EngineOptions | None = None,
    log: Path | None = None,
    say: Say = lambda _: None,
) -> Iterator[Endpoint]:
    """An OpenAI-compatible endpoint, warm when the block is entered and gone when it is left.

    model, name, adapters, registry, places, tool_parser: as for `resolve`, and `resolve_head`. A model that the
    registry has under the name `model` is followed: whatever version production is gets engines, and those of the
    aliases in `also`. replicas: engines of each model, by
    default two where the cluster has room for them, else one. keys: a file of API keys (`fettle keys`); without one any
    is taken, and `host` has to be this machine alone. options: of the engine. log: file for the noise of Ray and vLLM,
    by default a new one in ~/.cache/fettle/logs. say: is told what is going on, a line each. On the Ray cluster we are
    connected to, else the one RAY_ADDRESS names, else one of our own, which ends with the block. Raises UserError
    before anything is started for a model that cannot be served, a port in use, or a cluster where Ray Serve already
    runs; FettleError, naming the log, if the engine does not start.
    """
    say(f"checking {model}")
    told: dict[str, Any] = {"name": name, "adapters": adapters, "registry": registry, "tool_parser": tool_parser}
    served, fitting = to_serve(model, options, also=also, places=places, **told)
    check_open(host, keys)
    check_port(host, port)
    log = log or new_log()
    log_into(log, "ray", "ray.serve")
    say(f"what Ray and vLLM have to say goes to {log}")
    say("starting Ray")
    guard_proxies()
    with ray_session() as is_ours:
        _refuse_second_serve()
        try:
            count = replicas or _default_replicas()
            say(f"loading {f'{count} engines' if count > 1 else 'the engine'} ({', '.join(served.names)})")
            _deploy(served, fitting, host, port, count, keys, log)
            now = served.served if isinstance(served, Followed) else served
            endpoint = Endpoint(_url(host, port), now, log, lambda: _stop(is_ours, log))
            try:
                yield endpoint
            finally:
                endpoint.stop()
        finally:
            if not is_ours:  # one of our own ends with the session, whatever state this is in
                _stop(is_ours, log)


def to_serve(
    model: str | Path,
    options: EngineOptions | None,
    *,
    also: Sequence[str] = (),
    deployment: Mapping[str, Any] | None = None,
    **told: Any,
) -> tuple[Served | Followed, EngineOptions]:
    """What an endpoint has engines for, and their options. told: as for `resolve`. Raises UserError for a model that
    cannot be served."""
    if (followed := resolve_followed(model, options, also=also, deployment=deployment, **told)) is not None:
        return followed, followed.options
    return resolved(model, options, **told)


def application(
    models: Sequence[tuple[Served | Followed, EngineOptions]],
    keys: str | Path | None,
    log: str | None = None,
    *,
    on_head: bool = False,
    **of_model: Any,
) -> Application:
    """One ingress before the engines of each model. on_head: it is on the head node, where the only proxy is, so that
    a node that is lost takes none but engines with it. of_model: Ray Serve's options of their deployments, which are
    called `model`, and where there are several `model-NAME`. Those of followed models are in applications of their own,
    which the deployment `keeper` starts and ends."""
    ingress: Any = Ingress
    if on_head:
        ingress = ingress.options(ray_actor_options={"num_cpus": 0, "resources": {_HEAD: 0.001}})
    file = None
    if keys is not None:
        file = str(Path(keys).expanduser().resolve())
        KeyFile(file).all()  # raises where it makes no sense
    names = [name for served, _ in models for name in served.names]
    if twice := {name for name in names if names.count(name) > 1}:
        raise UserError(f"two models are called {sorted(twice)[0]}", field="name", fix="give one of them another name")
    bound, followed = [], []
    for served, options in models:
        if isinstance(served, Followed):
            followed.append(replace(served, deployment={**of_model, **served.deployment}))
            continue
        kind: Any = Replica if isinstance(served, ServedModel) else HeadReplica
        called = {"name": "model" if len(models) == 1 else f"model-{re.sub('[^A-Za-z0-9_-]', '-', served.names[0])}"}
        registry = served.registry if isinstance(served, ServedModel) else None
        bound.append((kind.options(**called, **of_model).bind(served, options, log), served.names, registry))
    keeper: Any = Keeper
    keeps = keeper.options(max_constructor_retry_count=1).bind(followed, log) if followed else None
    made: Application = ingress.bind(bound, [(one.name, one.registry) for one in followed], keeps, file, log)
    return made


def _default_replicas() -> int:
    room = available_gpus() if device() == "gpu" else available_cpus() // _CPUS_OF_A_REPLICA
    return 2 if room >= 2 else 1


def _deploy(
    served: Served | Followed,
    options: EngineOptions,
    host: str,
    port: int,
    replicas: int,
    keys: str | Path | None,
    log: Path,
) -> None:
    """Deploys the application; returns when its engines are warm."""
    _wait_for_a_cpu()
    http = HTTPOptions(host=host, port=port)
    ray_serve.start(proxy_location=ProxyLocation.HeadOnly, http_options=http, logging_config=QUIET)
    log_into(log, "ray.serve")  # starting Serve has given its logger handlers of its own
    # A replica on another machine cannot write our file; what it prints is then in Ray's own logs.
    here = str(log) if len([node for node in ray.nodes() if node["Alive"]]) == 1 else None
    told: dict[str, Any] = {"num_replicas": replicas, "max_constructor_retry_count": 1}
    app = application([(served, options)], keys, here, on_head=True, **told)
    try:
        ray_serve.run(app, name=APP, route_prefix="/", logging_config=QUIET)
    except (RuntimeError, ray.exceptions.RayError) as error:
        raise FettleError(f"the engine did not start: {_reason(error)}; log: {log}") from error
    _wait_until_known(_url(host, port), log)


def _wait_until_known(url: str, log: Path) -> None:
    """Ray Serve takes the ingress for started before that knows of the engines. Not by a handle, whose watch of the
    controller Ray prints an error of once Serve is shut down."""
    until = time.monotonic() + _KNOWN_TIMEOUT_S
    with requests.Session() as session:
        session.trust_env = False  # no proxy leads to this machine
        while time.monotonic() < until:
            try:
                if session.get(f"{url}/ready", timeout=_KNOWN_TIMEOUT_S).ok:
                    return
            except requests.ConnectionError:  # the head node is another machine
                return
            time.sleep(0.1)
    raise FettleError(f"the engine started, and is not there for requests; log: {log}")


def _reason(error: BaseException) -> str:
    """What our own code said in a replica, else what Ray Serve did."""
    told = ""
    with suppress(Exception):
        told = "\n".join(one.message for one in ray_serve.status().applications[APP].deployments.values())
    return reason_in(told) or _first_line(error)


def _refuse_second_serve() -> None:
    """Serve listens where it was first told to, and whoever stops it stops every application in it."""
    if _serve_runs():
        raise UserError(
            "Ray Serve already runs on this cluster, on a port of its own",
            field="port",
            fix="deploy with `serve deploy serve/config.yaml`, or unset RAY_ADDRESS for a cluster of our own",
        )


def _wait_for_a_cpu() -> None:
    """Without a free CPU the replica would wait for ever and say nothing; one held by work just ended comes free."""
    until = time.monotonic() + _FREE_CPU_TIMEOUT_S
    while ray.available_resources().get("CPU", 0) < 1:
        if time.monotonic() > until:
            total = int(ray.cluster_resources().get("CPU", 0))
            raise DoesNotFit(
                f"the endpoint needs 1 CPU of the Ray cluster and none of its {total} is free",
                fix="wait for what runs there, or add a node",
            )
        time.sleep(0.5)


def _serve_runs() -> bool:
    try:
        ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve")
    except ValueError:
        return False
    return True


def _stop(cluster_is_ours: bool, log: Path) -> None:
    """Lets requests end and takes the application away; on a cluster that lives on, Ray Serve too.

    A cluster of our own is stopped next, with Serve in it. Shutting Serve down makes Ray print errors of calls that
    miss their controller, harmless ones; they go to the log.
    """
    if not cluster_is_ours:
        with open(log, "a", encoding="utf-8") as noise, redirect_stdout(noise):
            if ray.is_initialized() and _serve_runs():
                ray_serve.shutdown()
        return
    # A signal to the whole process group (`timeout`, systemd) ends Ray's own processes too, and any call to a cluster
    # without its servers waits 60 s and then aborts this process: so not in this thread.
    deleting = threading.Thread(target=_delete_app, daemon=True)
    deleting.start()
    until = time.monotonic() + _STOP_TIMEOUT_S
    while deleting.is_alive() and time.monotonic() < until and _serve_lives():
        deleting.join(0.1)


def _delete_app() -> None:
    with suppress(Exception):  # whatever it is, the cluster ends next
        if ray.is_initialized() and _serve_runs():
            ray_serve.delete(APP)


def _serve_lives() -> bool:
    """Whether our own cluster has the two processes that stopping an application needs."""
    ours = psutil.Process().children(recursive=True)
    names = [one.name() for one in ours if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
    return all(any(name.startswith(wanted) for name in names) for wanted in ("gcs_server", "ray::ServeContr"))


def _url(host: str, port: int) -> str:
    reached = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{reached}:{port}"


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
