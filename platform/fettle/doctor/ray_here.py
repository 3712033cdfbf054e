"""Ray on this machine: the token that guards it, the ports it wants, and a cluster that is there already."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import psutil

from fettle.doctor.finding import Finding, bad, note, ok
from fettle.errors import UserError
from fettle.serving.port import check_port as check_free

_PORTS = {"Ray's head": 6379, "Ray's client": 10001, "dashboard and jobs": 8265, "dashboard's agent": 52365}
_OF_US = {"endpoint": 8000}
_ANOTHER = "ray start --head --port=6380 --dashboard-port=8266 --dashboard-agent-listen-port=52366"


def check_ray_here() -> list[Finding]:
    """Reads processes and ports; starts nothing and connects to nothing."""
    heads = gcs_addresses(psutil.process_iter())
    return [
        *check_token(os.environ, Path.home() / ".ray" / "auth_token"),
        check_clusters(heads, os.environ.get("RAY_ADDRESS")),
        *(check_port(what, number, is_rays=bool(heads)) for what, number in {**_PORTS, **_OF_US}.items()),
    ]


def check_token(env: Mapping[str, str], default: Path) -> list[Finding]:
    """env: RAY_AUTH_MODE, RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH, in Ray's own order. default: where the token lies."""
    mode = env.get("RAY_AUTH_MODE", "").lower()
    if mode == "disabled":
        told = "RAY_AUTH_MODE=disabled: whoever reaches the job server runs what he likes"
        return [note("ray token", told, "RAY_AUTH_MODE=token")]
    if env.get("RAY_AUTH_TOKEN"):
        told = "in RAY_AUTH_TOKEN, which other processes of this user can read"
        return [note("ray token", told, "put it into ~/.ray/auth_token (mode 0600), and unset the variable")]
    file = Path(env.get("RAY_AUTH_TOKEN_PATH") or default)
    if not file.is_file():
        fix = "ray get-auth-token --generate && chmod 600 ~/.ray/auth_token"
        if mode == "token":
            return [bad("ray token", f"RAY_AUTH_MODE=token, and there is no {file}", fix)]
        told = f"no {file}: `ray start` is unguarded (a run's own Ray makes one)"
        return [note("ray token", told, fix)]
    if open_to := stat.S_IMODE(file.stat().st_mode) & 0o077:
        return [bad("ray token", f"{file} is open to others ({open_to:03o})", f"chmod 600 {file}")]
    if not file.read_text(encoding="utf-8").strip():
        return [bad("ray token", f"{file} is empty", f"rm {file}, and let Ray make another")]
    return [ok("ray token", str(file))]


def check_clusters(heads: Sequence[str], named: str | None) -> Finding:
    """heads: addresses of the Ray clusters with a node here. named: RAY_ADDRESS."""
    if named:
        return note("ray cluster", f"RAY_ADDRESS={named}: runs go there", "unset it to run on a cluster of our own")
    if not heads:
        return ok("ray cluster", "none runs here; a run starts its own")
    told = f"{len(heads)} run{'s' if len(heads) == 1 else ''} here already: {', '.join(heads)}"
    fix = f"RAY_ADDRESS={heads[0]} to run there; `ray stop` where nobody needs it any more"
    return note("ray cluster", told, fix)


def gcs_addresses(processes: Iterable[psutil.Process]) -> list[str]:
    """Addresses of the Ray clusters that have a node here, by the words of its raylet."""
    found = set()
    for one in processes:
        try:
            words = one.cmdline()
        except (psutil.Error, OSError):
            continue
        if words and Path(words[0]).name == "raylet":
            found |= {word.partition("=")[2] for word in words if word.startswith("--gcs-address=")}
    return sorted(found)


def check_port(what: str, number: int, *, is_rays: bool) -> Finding:
    """what: who wants it. is_rays: whether a Ray runs here, which may have it."""
    try:
        check_free("127.0.0.1", number)
    except UserError:
        if is_rays and what in _PORTS:
            return note(f"port {number}", f"{what}: taken, it seems by the Ray that runs here")
        fix = "fettle serve --port N" if what in _OF_US else _ANOTHER
        return note(f"port {number}", f"{what}: taken", fix)
    return ok(f"port {number}", f"{what}: free")
