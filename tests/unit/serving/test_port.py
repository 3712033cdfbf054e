"""Ports in use are found by binding."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator

import pytest

from fettle.errors import UserError
from fettle.serving.port import check_port


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_free_port_passes(taken: int) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]

    check_port("127.0.0.1", free)


def test_port_in_use_is_named_with_a_free_one(taken: int) -> None:
    with pytest.raises(UserError, match=f"port {taken} on 127.0.0.1 is in use") as caught:
        check_port("127.0.0.1", taken)

    suggested = re.search(r"--port (\d+)", str(caught.value))
    assert suggested is not None
    check_port("127.0.0.1", int(suggested[1]))


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", 0), ("127.0.0.1", 70000), ("203.0.113.1", 8000)])
def test_address_that_is_none_is_refused(host: str, port: int) -> None:
    with pytest.raises(UserError):
        check_port(host, port)
