"""A cluster, looked at by its job server: head, token, nodes, versions, and the folder that runs are written to."""

from __future__ import annotations

import json
import platform
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import requests
from ray.job_submission import JobSubmissionClient

from fettle.doctor import on_nodes
from fettle.doctor.finding import Finding, bad, note, ok
from fettle.doctor.versions import installed
from fettle.errors import UserError
from fettle.pipeline.job_server import address_of, connect, submit
from fettle.pipeline.shipped import pack
from fettle.serving.port import LOOPBACK

_JOB_TIMEOUT_S = 120
_ANSWER_TIMEOUT_S = 5
_GIB = 2**30


def check_cluster(address: str | None, folder: str) -> list[Finding]:
    """Runs a small job there, which takes some 15 s. folder: where runs are to be written, `~` being the head's."""
    try:
        client = connect(address)
    except UserError as error:
        return [bad("head", error.got, str(error.fix))]
    found = [ok("head", f"{address_of(client)} answers and takes our token"), check_guard(address_of(client))]
    try:
        told = _asked(client, folder)
    except UserError as error:
        return [*found, bad("job", error.got, str(error.fix))]
    return found + check_nodes(told["nodes"], told["folder"], installed() | {"python": platform.python_version()})


def check_guard(server: str) -> Finding:
    """Whether the server takes jobs from somebody without a token."""
    try:
        answer = requests.get(f"{server}/api/jobs/", timeout=_ANSWER_TIMEOUT_S)
    except requests.RequestException as error:
        return note("guard", f"not known: {type(error).__name__}")
    if answer.status_code in (401, 403):
        return ok("guard", "without a token it takes nothing")
    told = "it asks for no token: whoever reaches it can run anything on all nodes"
    fix = "ray get-auth-token --generate on the head, then start Ray with RAY_AUTH_MODE=token on every node"
    is_far = urlsplit(server).hostname not in LOOPBACK
    return bad("guard", told, fix) if is_far else note("guard", told, fix)


def check_nodes(nodes: Sequence[Mapping[str, Any]], folder: str, here: Mapping[str, str]) -> list[Finding]:
    """nodes: as on_nodes.py tells them. folder: on the head. here: this machine's versions."""
    found = [_node(node) for node in nodes]
    answered = [node for node in nodes if "versions" in node]
    for what in ("python", "ray", "fettle", "torch", "transformers"):
        by_version: dict[str, list[str]] = {}
        for node in answered:
            by_version.setdefault(_version(node, what), []).append(node["address"])
        found += _same(what, by_version, here)
    if len(answered) > 1:
        apart = [node["address"] for node in answered if not node["sees_folder"]]
        if apart:
            told = f"{folder} of the head is not seen on {', '.join(apart)}"
            fix = "--out on a disk that all nodes share; with one node at work nothing is needed"
            found.append(note("shared folder", told, fix))
        else:
            found.append(ok("shared folder", f"{folder} is seen on all {len(answered)} nodes"))
    return found


def _node(node: Mapping[str, Any]) -> Finding:
    what = f"node {node['address']}" + (" (head)" if node["is_head"] else "")
    if "versions" not in node:
        fix = "see /tmp/ray/session_latest/logs there; end the node if it hangs"
        return bad(what, "runs no task", fix)
    resources = node["resources"]
    kinds = [key.removeprefix("accelerator_type:") for key in resources if key.startswith("accelerator_type:")]
    told = f"{resources.get('CPU', 0):g} CPUs, {resources.get('GPU', 0):g} GPUs{' ' if kinds else ''}{', '.join(kinds)}"
    told += f", {resources.get('memory', 0) / _GIB:.0f} GiB, {node['shm_free'] / _GIB:.1f} GiB of /dev/shm free"
    if resources.get("CPU", 0) > node["cores"]:
        return note(what, f"{told}; and it has only {node['cores']} cores", f"ray start --num-cpus={node['cores']}")
    return ok(what, told)


def _version(node: Mapping[str, Any], what: str) -> str:
    version: str = node["python"] if what == "python" else node["versions"].get(what, "none")
    return version


def _same(what: str, by_version: Mapping[str, Sequence[str]], here: Mapping[str, str]) -> list[Finding]:
    """What is to be said of one package's versions on the nodes, by version the nodes that have it."""
    if not by_version:
        return []
    if len(by_version) > 1:
        told = "; ".join(f"{version} on {', '.join(nodes)}" for version, nodes in by_version.items())
        return [bad(what, told, "the same on every node: one image, or the same requirements file")]
    (version,) = by_version
    if version == "none":
        fix = "bash deploy/setup.sh there, and start Ray with that environment active"
        return [bad(what, "not on the nodes, as Ray's Python sees them", fix)]
    if what in here and here[what] != version:
        return [note(what, f"{version} there, {here[what]} here", "the same here, so that plans and checks are of it")]
    return [ok(what, f"{version} on all nodes")]


def _asked(client: JobSubmissionClient, folder: str) -> dict[str, Any]:
    """What on_nodes.py prints there. Raises UserError where it does not run."""
    script = Path(on_nodes.__file__)
    with TemporaryDirectory(prefix="fettle-") as temporary:
        package = Path(temporary, "doctor.zip")
        pack([script], script.parent, package)
        line = shlex.join(["python", script.name, folder])
        job = submit(client, line, package, {"verb": "doctor", "run": "fettle-doctor"})
    until = time.monotonic() + _JOB_TIMEOUT_S
    while not (status := client.get_job_status(job)).is_terminal():
        if time.monotonic() > until:
            client.stop_job(job)
            got = f"the cluster began no job in {_JOB_TIMEOUT_S} s ({status.value.lower()})"
            raise UserError(got, fix="`ray status` there: the head has no CPU or memory left, or its agent hangs")
        time.sleep(0.5)
    log = client.get_job_logs(job)
    line = next((one for one in log.splitlines() if one.startswith(on_nodes.MARK)), "")
    if not line:
        last = [one for one in log.splitlines() if one.strip()] or [client.get_job_info(job).message or "no log"]
        fix = "start Ray there with fettle's environment active (PATH=.venv/bin:$PATH ray start …)"
        raise UserError(f"a job does not run there: {last[-1].strip()[:200]}", fix=fix)
    told: dict[str, Any] = json.loads(line.removeprefix(on_nodes.MARK))
    return told
