"""A cluster's nodes, as its own job tells them."""

from __future__ import annotations

from typing import Any

import pytest

from fettle.doctor import cluster
from fettle.doctor.cluster import check_cluster, check_guard, check_nodes
from fettle.errors import UserError

HERE = {"ray": "2.60.0", "fettle": "0.1.0", "torch": "2.13.0+cpu", "transformers": "5.19.0"}


def node(address: str, **other: Any) -> dict[str, Any]:
    resources = {"CPU": 16.0, "GPU": 4.0, "memory": 64 * 2.0**30, "accelerator_type:A10G": 1.0}
    told = {"address": address, "is_head": address == "10.0.0.1", "resources": resources, "python": "3.11.7"}
    return told | {"versions": HERE, "host": "h", "cores": 16, "shm_free": 2**33, "sees_folder": True} | other


def found(*nodes: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {one.what: (one.level, one.told) for one in check_nodes(nodes, "/shared", HERE | {"python": "3.11.7"})}


def test_nodes_are_told_with_what_they_have_and_that_they_are_alike():
    told = found(node("10.0.0.1"), node("10.0.0.2"))

    assert told["node 10.0.0.1 (head)"] == ("ok", "16 CPUs, 4 GPUs A10G, 64 GiB, 8.0 GiB of /dev/shm free")
    assert told["ray"] == ("ok", "2.60.0 on all nodes")
    assert told["shared folder"] == ("ok", "/shared is seen on all 2 nodes")
    assert {level for level, _ in told.values()} == {"ok"}


def test_another_version_on_a_node_is_to_be_mended():
    told = found(node("10.0.0.1"), node("10.0.0.2", python="3.12.1"))

    assert told["python"] == ("bad", "3.11.7 on 10.0.0.1; 3.12.1 on 10.0.0.2")


def test_nodes_without_fettle_are_to_be_mended_and_other_versions_than_here_are_known():
    told = found(node("10.0.0.1", versions={"ray": "2.60.0", "torch": "2.13.0+cu130"}))

    assert told["fettle"][0] == "bad"
    assert told["torch"] == ("note", "2.13.0+cu130 there, 2.13.0+cpu here")


def test_a_folder_that_is_not_shared_names_the_nodes():
    told = found(node("10.0.0.1"), node("10.0.0.2", sees_folder=False))

    assert told["shared folder"] == ("note", "/shared of the head is not seen on 10.0.0.2")


def test_a_node_that_runs_nothing_and_one_that_promises_too_much():
    silent = {key: node("10.0.0.2")[key] for key in ("address", "is_head", "resources")}

    told = found(node("10.0.0.1", cores=8), silent)

    assert told["node 10.0.0.2"][0] == "bad"
    assert told["node 10.0.0.1 (head)"][0] == "note" and "only 8 cores" in told["node 10.0.0.1 (head)"][1]


def test_a_head_that_does_not_answer_is_the_one_finding(monkeypatch: pytest.MonkeyPatch):
    def connect(address: str) -> None:
        raise UserError("no Ray job server answers", fix="start one")

    monkeypatch.setattr(cluster, "connect", connect)

    (one,) = check_cluster("http://head:8265", "/shared")

    assert (one.what, one.level, one.fix) == ("head", "bad", "start one")


@pytest.mark.parametrize(
    ("server", "status", "level"),
    [("http://10.0.0.1:8265", 200, "bad"), ("http://127.0.0.1:8265", 200, "note"), ("http://10.0.0.1:8265", 401, "ok")],
)
def test_a_head_that_anybody_may_use_is_to_be_mended(monkeypatch, server, status, level):
    class Answer:
        status_code = status

    monkeypatch.setattr(cluster.requests, "get", lambda address, timeout: Answer())

    assert check_guard(server).level == level
