"""Whether a port is free, found out by binding it before anything heavy starts."""

from __future__ import annotations

import errno
import socket

from fettle.errors import UserError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
_LOOKED_AT = 100


def check_port(host: str, port: int) -> None:
    """Raises UserError if `host:port` cannot be listened on; for a port in use it names a free one."""
    if not 1 <= port <= 65535:
        raise UserError(f"{port} is no port", field="port", expected="1 to 65535")
    problem = _bind(host, port)
    if problem is None:
        return
    if problem.errno == errno.EADDRINUSE:
        others = range(port + 1, min(port + _LOOKED_AT, 65536))
        free = next((other for other in others if _bind(host, other) is None), None)
        raise UserError(
            f"port {port} on {host} is in use",
            field="port",
            fix=f"stop what listens there, or take another: --port {free}" if free else "stop what listens there",
        )
    if problem.errno == errno.EACCES:
        raise UserError(f"port {port} may not be used by this user", field="port", expected="1024 or above")
    raise UserError(
        f"cannot listen on {host} ({problem.strerror or problem})", field="host", expected="an address of this machine"
    )


def check_open(host: str, keys: object | None) -> None:
    """Raises UserError where everybody could ask: an address that other machines reach, without keys."""
    if keys is None and host not in LOOPBACK:
        raise UserError(
            f"an endpoint on {host} without keys answers whoever reaches it",
            field="host",
            expected=f"one of {', '.join(LOOPBACK)}, or keys",
            fix="make a key with `fettle keys create NAME --keys FILE`, and serve with --keys FILE",
        )


def _bind(host: str, port: int) -> OSError | None:
    """What binding raises. SO_REUSEADDR passes over connections that only wait to expire, not over a listener."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        return error
    return None


def free_port(host: str = "127.0.0.1") -> int:
    """A port that was free a moment ago."""
    with socket.create_server((host, 0)) as probe:
        return int(probe.getsockname()[1])
