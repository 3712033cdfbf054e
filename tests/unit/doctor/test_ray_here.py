"""Ray on this machine: token, clusters that are there, ports."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from fettle.doctor.ray_here import check_clusters, check_port, check_token, gcs_addresses


class Process:
    """Something that runs, by its words."""

    def __init__(self, *words: str) -> None:
        self.words = words

    def cmdline(self) -> tuple[str, ...]:
        return self.words


@pytest.fixture
def token(tmp_path: Path) -> Path:
    file = tmp_path / "auth_token"
    file.write_text("a" * 64)
    file.chmod(0o600)
    return file


def test_a_token_of_our_own_is_ok(token: Path):
    assert check_token({}, token)[0].level == "ok"


def test_a_token_that_others_can_read_says_the_command(token: Path):
    token.chmod(0o644)

    (found,) = check_token({}, token)

    assert (found.level, found.fix) == ("bad", f"chmod 600 {token}")


def test_a_token_is_never_shown(token: Path):
    found = [*check_token({}, token), *check_token({"RAY_AUTH_TOKEN": "b" * 64}, token)]

    assert all("aaaa" not in one.told and "bbbb" not in one.told for one in found)


@pytest.mark.parametrize(("env", "level"), [({}, "note"), ({"RAY_AUTH_MODE": "token"}, "bad")])
def test_a_missing_token_is_bad_only_where_ray_is_told_to_ask_for_it(env: dict[str, str], level: str, tmp_path: Path):
    assert check_token(env, tmp_path / "none")[0].level == level


def test_an_empty_token_and_a_switched_off_guard_are_told(tmp_path: Path, token: Path):
    token.write_text("")

    assert check_token({}, token)[0].level == "bad"
    assert check_token({"RAY_AUTH_MODE": "disabled"}, token)[0].level == "note"


def test_clusters_are_found_by_their_raylets_words():
    processes = [
        Process("/x/core/src/ray/raylet/raylet", "--node=1", "--gcs-address=10.0.0.1:6379"),
        Process("python", "--gcs-address=10.0.0.2:6379"),
        Process(),
    ]

    assert gcs_addresses(processes) == ["10.0.0.1:6379"]


def test_a_stray_cluster_is_something_to_know_of():
    assert check_clusters(["10.0.0.1:6379"], None).fix.startswith("RAY_ADDRESS=10.0.0.1:6379")
    assert check_clusters([], "10.0.0.1:6379").level == "note"
    assert check_clusters([], None).level == "ok"


def test_a_port_that_is_taken_says_how_to_take_another():
    with socket.create_server(("127.0.0.1", 0)) as server:
        number = server.getsockname()[1]
        found = check_port("endpoint", number, is_rays=False)

    assert (found.level, found.fix) == ("note", "fettle serve --port N")
    assert check_port("endpoint", number, is_rays=False).level == "ok"
