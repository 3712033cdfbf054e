"""What `fettle demo` says no to before it starts anything."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from fettle.errors import UserError
from fettle.pipeline.demo import demo


def test_a_port_in_use_is_refused_before_three_minutes_of_training(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UserError, match="in use"):
            demo(tmp_path / "demo", taken.getsockname()[1])
    assert not (tmp_path / "demo").exists()
