"""The Ray cluster a run works on: the one RAY_ADDRESS names, else one of our own that we start and stop."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import ray
from ray._private.state import state
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from fettle.errors import FettleError, Interrupted, UserError
from fettle.signals import handlers_kept

# Ray starts its workers at nice 15, where they starve beside anything else on the machine (one got 4 s of CPU in
# 330 s, measured 2026-08 on 2 cores); its own setting has to stand in the environment before ray.init.
OUR_CLUSTER_ENV = {
    "RAY_worker_niceness": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAYLLM_ENABLE_REQUEST_PROMPT_LOGS": "0",
}
_START_TRIES = 4
_GONE_TIMEOUT_S = 5
_ANSWER_TIMEOUT_S = 10
_LOOK_TIMEOUT_S = 60


@contextmanager
def ray_session(*, num_cpus: int | None = None) -> Iterator[bool]:
    """Yields whether the cluster is our own. Connects on entry; on exit disconnects and stops what we started.

    Inside a session another one joins it. num_cpus: size of a cluster of our own, by default the machine's cores.
    Raises UserError if RAY_ADDRESS names a cluster that does not answer,
    FettleError if our own does not start.
    """
    if ray.is_initialized():
        yield False
        return
    address = os.environ.get("RAY_ADDRESS")
    for key, value in OUR_CLUSTER_ENV.items():
        os.environ.setdefault(key, value)
    if not address:  # nobody drains it, and watching would take a process
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    with _no_process_left() as note:
        try:
            with handlers_kept():
                try:
                    if address:
                        _join(address)
                    else:
                        _start(num_cpus or os.cpu_count() or 1)
                except SystemExit:  # what Ray's own handler of SIGTERM raises
                    raise Interrupted("stopped by SIGTERM") from None
            yield not address
        finally:
            note()
            ray.shutdown()


def available_cpus() -> int:
    """CPU cores of the whole cluster we are connected to, those included that it can start when they are asked for."""
    return _most("CPU")


def available_gpus() -> int:
    """GPUs of the whole cluster we are connected to, those included that it can start when they are asked for."""
    return _most("GPU")


def _most(kind: str) -> int:
    return int(max(ray.cluster_resources().get(kind, 0), (_could_be() or {}).get(kind, 0)))


def _could_be() -> dict[str, int] | None:
    """What the node types of cluster.yaml, or of KubeRay's groups, come to; None where nobody starts nodes."""
    found: dict[str, int] | None = state.get_max_resources_from_cluster_config()
    return found


def num_places(cpus: int, gpus: int) -> int | None:
    """How many processes of so many CPUs and GPUs each there would be room for: each of them is on one node. None
    where nodes are started as they are asked for: how large they are nobody tells."""
    if _could_be():
        return None
    found = 0
    for node in ray.nodes():
        has = node["Resources"] if node["Alive"] else {}
        found += min(int(has.get(what, 0)) // n for what, n in (("CPU", cpus), ("GPU", gpus)) if n)
    return found


def check_seen(mark: Path | None, folders: Sequence[Path]) -> None:
    """Raises UserError where a node that work may be given to does not see the run's folder, as the file `mark` in it
    tells (if there is a run), or one of the folders that workers read."""
    text, here = mark.read_text(encoding="utf-8") if mark is not None else "", ray.get_runtime_context().get_node_id()
    look: Any = ray.remote(_not_seen)
    asked = []
    for node in ray.nodes():
        if node["Alive"] and node["NodeID"] != here and {"CPU", "GPU"} & set(node["Resources"]):
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            answer = look.options(num_cpus=0, scheduling_strategy=there).remote(mark, text, list(folders))
            asked.append((node["NodeManagerAddress"], answer))
    for address, answer in asked:
        try:
            missing = ray.get(answer, timeout=_LOOK_TIMEOUT_S)
        except RayError:  # a node that has gone, or is too busy to say: who is placed there will tell
            continue
        if mark is not None and missing == mark:
            raise UserError(
                f"the node {address} does not see {mark.parent}, where the run is written",
                field="--out",
                fix="give --out on storage that all nodes see at the same path",
            )
        if missing is not None:
            raise UserError(
                f"the node {address} does not see {missing}, which workers read",
                fix="copy it to storage that all nodes see, and name it there (with HF_HOME there, where a hub has it)",
            )


def _not_seen(mark: Path | None, text: str, folders: Sequence[Path]) -> Path | None:
    """The first that is not here, or is another one."""
    try:
        if mark is not None and mark.read_text(encoding="utf-8") != text:
            return mark
    except OSError:
        return mark
    return next((folder for folder in folders if not folder.exists()), None)


def _join(address: str) -> None:
    host, _, port = address.rpartition(":")
    try:
        if host and port.isdigit() and "/" not in host:  # Ray itself would try for more than a minute
            socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_TIMEOUT_S).close()
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(
            f"no Ray cluster answers at {address} ({str(error).splitlines()[0]})",
            field="RAY_ADDRESS",
            fix="start one with `ray start --head`, or unset RAY_ADDRESS to run on a cluster of our own",
        ) from error


def _start(num_cpus: int) -> None:
    """ray.init, tried again: on a busy machine the raylet gives up waiting for its own agents (ray.md 1.1)."""
    for attempt in range(1, _START_TRIES + 1):
        try:
            ray.init(
                address="local",
                num_cpus=num_cpus,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
            token = Path.home() / ".ray" / "auth_token"
            if token.is_file():  # Ray writes it for everybody to read
                token.chmod(0o600)
            return
        except Exception as error:  # Ray raises plain Exception, RuntimeError or its own here
            ray.shutdown()
            if attempt == _START_TRIES:
                raise FettleError(f"Ray did not start after {attempt} tries: {error}") from error
            time.sleep(2 * attempt)


@contextmanager
def _no_process_left() -> Iterator[Callable[[], None]]:
    """Ends what was started within the block and is still there at its end; yields a function to call right before
    Ray is shut down, when its processes can still be told by their parents.

    Ray's workers end by themselves up to seconds after ray.shutdown has returned, and an interrupt within ray.init
    leaves a half-started cluster that ray.shutdown does not know of.
    """
    here = psutil.Process()
    before = set(here.children(recursive=True))
    started: set[psutil.Process] = set()

    def note() -> None:
        started.update(set(here.children(recursive=True)) - before)

    try:
        yield note
    finally:
        note()
        for process in psutil.wait_procs(started, timeout=_GONE_TIMEOUT_S)[1]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(started, timeout=_GONE_TIMEOUT_S)
