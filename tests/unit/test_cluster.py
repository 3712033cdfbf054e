"""Joining and starting a Ray cluster, with a Ray that only counts."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from fettle import cluster
from fettle.errors import FettleError, UserError


class CountingRay:
    """Holds what `ray` would hold; fails the first `failures` starts."""

    def __init__(self, failures: int = 0) -> None:
        self.failures, self.started, self.is_up = failures, [], False  # type: ignore[var-annotated]
        self.could_be: dict[str, int] | None = None

    def is_initialized(self) -> bool:
        return self.is_up

    def init(self, **how: Any) -> None:
        self.started.append(how)
        if len(self.started) <= self.failures:
            raise ConnectionError("nobody\nlistens")
        self.is_up = True

    def shutdown(self) -> None:
        self.is_up = False

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 3.0, "memory": 1e9}

    def get_max_resources_from_cluster_config(self) -> dict[str, int] | None:
        return self.could_be

    def nodes(self) -> list[dict[str, Any]]:
        has = [{"CPU": 3.0}, {"CPU": 8.0, "GPU": 2.0}, {"memory": 1e9}, {"CPU": 64.0}]
        return [{"Alive": place < 3, "Resources": one} for place, one in enumerate(has)]


@pytest.fixture
def ray(monkeypatch, tmp_path) -> CountingRay:
    """The counting Ray in place of the real one, no RAY_ADDRESS, and an environment that is put back."""
    fake = CountingRay()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(cluster, "ray", fake)
    monkeypatch.setattr(cluster, "state", fake)
    monkeypatch.setattr(cluster.time, "sleep", lambda seconds: None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for key in cluster.OUR_CLUSTER_ENV:
        monkeypatch.setenv(key, "")
        monkeypatch.delenv(key)
    return fake


def test_a_cluster_of_our_own_is_started_and_stopped(ray):
    with cluster.ray_session(num_cpus=2) as is_ours:
        assert is_ours and ray.is_up and ray.started[0]["address"] == "local" and ray.started[0]["num_cpus"] == 2
    assert not ray.is_up


def test_the_token_that_ray_wrote_is_for_its_owner_alone(ray, tmp_path):
    token = tmp_path / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("secret")
    with cluster.ray_session():
        assert token.stat().st_mode & 0o777 == 0o600


def test_it_is_stopped_after_an_error_too(ray):
    with pytest.raises(KeyboardInterrupt), cluster.ray_session():
        raise KeyboardInterrupt
    assert not ray.is_up


@pytest.fixture
def listening() -> Iterator[str]:
    """A loopback address at which something listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_the_cluster_that_ray_address_names_is_joined(ray, monkeypatch, listening):
    monkeypatch.setenv("RAY_ADDRESS", listening)
    with cluster.ray_session() as is_ours:
        assert not is_ours and [how["address"] for how in ray.started] == [listening]


def test_a_session_within_another_one_joins_it(ray):
    with cluster.ray_session(), cluster.ray_session() as is_ours:
        assert not is_ours
        assert len(ray.started) == 1
    assert not ray.is_up


def test_an_address_at_which_nothing_listens_is_a_users_mistake_told_at_once(ray, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = f"127.0.0.1:{server.getsockname()[1]}"
    monkeypatch.setenv("RAY_ADDRESS", closed)
    with pytest.raises(UserError, match=f"^RAY_ADDRESS: no Ray cluster answers at {closed}"), cluster.ray_session():
        pass
    assert ray.started == []


def test_a_listener_that_is_no_ray_cluster_is_a_users_mistake(ray, monkeypatch, listening):
    monkeypatch.setenv("RAY_ADDRESS", listening)
    ray.failures = 1
    with pytest.raises(UserError, match=rf"no Ray cluster answers at {listening} \(nobody\)"), cluster.ray_session():
        pass


def test_a_start_that_fails_is_tried_again(ray):
    ray.failures = 3
    with cluster.ray_session():
        assert len(ray.started) == 4


def test_a_start_that_fails_four_times_is_given_up(ray):
    ray.failures = 4
    with pytest.raises(FettleError, match="^Ray did not start after 4 tries: nobody"):  # noqa: SIM117
        with cluster.ray_session():
            pass


def test_a_resource_that_a_cluster_does_not_name_is_none(ray):
    assert (cluster.available_cpus(), cluster.available_gpus()) == (3, 0)


def test_nodes_that_a_cluster_would_start_count(ray):
    ray.could_be = {"CPU": 64, "GPU": 8}

    assert (cluster.available_cpus(), cluster.available_gpus()) == (64, 8)


def test_a_process_has_a_place_on_one_living_node(ray):
    assert cluster.num_places(2, 0) == 1 + 4
    assert cluster.num_places(2, 1) == 2
    assert cluster.num_places(9, 0) == 0

    ray.could_be = {"CPU": 64}
    assert cluster.num_places(9, 0) is None


def test_what_was_started_meanwhile_and_stays_is_ended(ray, monkeypatch):
    monkeypatch.setattr(cluster, "_GONE_TIMEOUT_S", 0)
    before = subprocess.Popen(["sleep", "60"])
    try:
        with cluster.ray_session():
            left = subprocess.Popen(["sleep", "60"])
        left.wait(10)  # raises unless it has ended; who collected its exit code is open
        assert before.poll() is None
    finally:
        before.kill()
        before.wait()


def test_a_node_sees_the_runs_folder_by_what_is_in_it(tmp_path):
    (mark := tmp_path / ".epoch").write_text("this run")

    assert cluster._not_seen(mark, "this run", [tmp_path]) is None
    assert cluster._not_seen(mark, "another folder's", [tmp_path]) == mark
    assert cluster._not_seen(tmp_path / "gone", "this run", []) == tmp_path / "gone"
    assert cluster._not_seen(mark, "this run", [tmp_path, tmp_path / "base"]) == tmp_path / "base"
