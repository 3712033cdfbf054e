"""Which stages share a worker group, and which are trained beside each other."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from small_house import House, finish

from fettle.errors import Interrupted, StageFailed
from fettle.pipeline import runner, training
from fettle.pipeline.graph import PlannedStage
from fettle.recipe.cluster import ClusterSpec


class Groups:
    """Stands where run_group would be: notes (workers, names) of each worker group, and finishes its stages.

    together: groups that are started beside each other before any of them goes on.
    """

    def __init__(self) -> None:
        self.started: list[tuple[int, list[str]]] = []
        self.logs: list[str] = []
        self.planned: list[PlannedStage] = []
        self.together: dict[str, threading.Barrier] = {}
        self.failing: set[str] = set()

    def __call__(self, stages: Any, cluster: ClusterSpec, *, fence: Any, out: Path, logs: Path) -> None:
        names = [job.name for job, _ in stages]
        self.started.append((cluster.workers, names))
        self.logs.append(logs.name)
        assert [function.__name__ for _, function in stages] == [job.spec.kind for job, _ in stages]
        if names[0] in self.together:
            self.together[names[0]].wait(timeout=20)
        if names[0] in self.failing:
            raise StageFailed(f"stage {names[0]} failed")
        for stage in self.planned:
            if stage.spec.name in names:
                finish(stage)


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> Groups:
    """On a cluster of two CPUs."""
    found = Groups()
    monkeypatch.setattr(training, "ray_session", nullcontext)
    monkeypatch.setattr(training, "run_group", found)
    monkeypatch.setattr(training, "room", lambda: (2, 0))
    return found


def run(house: House) -> None:
    runner.run(house.file, out=house.out)


def sft(name: str, **keys: Any) -> dict[str, Any]:
    return {"name": name, "kind": "sft", "data": "chat.jsonl"} | keys


@pytest.mark.parametrize(
    ("clusters", "expected"),
    [
        ([None, None, None], [(1, ["a", "b", "c"])]),
        ([None, {"workers": 2}, {"workers": 2}], [(1, ["a"]), (2, ["b", "c"])]),
        ([{"workers": 2}, None, {"workers": 2}], [(2, ["a"]), (1, ["b"]), (2, ["c"])]),
        ([None, {"workers": 1}, None], [(1, ["a", "b", "c"])]),  # the same spec, said again
        ([{"workers": 2, "zero": 3}] * 3, [(2, ["a"]), (2, ["b"]), (2, ["c"])]),
    ],
)
def test_consecutive_stages_of_one_cluster_spec_share_a_group_unless_zero_3_keeps_their_weights(
    house, groups, clusters, expected
):
    stages = [sft(name, **({"cluster": spec} if spec else {})) for name, spec in zip("abc", clusters, strict=True)]
    house = house.with_stages(*stages)
    groups.planned = house.plan()
    run(house)
    assert groups.started == expected


def test_a_run_that_is_stopped_by_sigterm_waits_for_its_checkpoint(house, monkeypatch, groups):
    saved = []

    def group(stages: Any, cluster: ClusterSpec, *, fence: Any, out: Path, logs: Path) -> None:
        time.sleep(0.5)  # the run waits for us by now
        os.kill(os.getpid(), signal.SIGTERM)
        while not fence.file.with_name(".save-now").exists():
            time.sleep(0.01)
        time.sleep(0.3)
        (stages[0][0].folder / "checkpoints" / "step-00000003").mkdir(parents=True)
        saved.append(3)
        threading.Event().wait(10)

    monkeypatch.setattr(training, "run_group", group)
    with pytest.raises(Interrupted, match="stopped by SIGTERM"):
        run(house)
    assert saved == [3]


def test_stages_that_are_done_are_in_no_group(house, groups):
    groups.planned = house.plan()
    finish(groups.planned[0])
    run(house)
    assert groups.started == [(1, ["instruct"])]


def test_a_branch_is_trained_beside_the_trunk_where_there_is_room(house, groups, capfd):
    house = house.with_stages(sft("trunk"), sft("apart", base="base"), sft("on", **{"from": "trunk"}))
    groups.planned = house.plan()
    groups.together = dict.fromkeys(("trunk", "apart"), threading.Barrier(2))
    run(house)
    assert sorted(groups.started) == [(1, ["apart"]), (1, ["trunk", "on"])]
    assert sorted(groups.logs) == ["apart", "logs"]
    assert "starting 1 worker, ZeRO 0, fp32 beside it: apart" in capfd.readouterr().out


def test_variants_of_one_stage_are_trained_beside_each_other_once_it_is_done(house, groups):
    house = house.with_stages(
        sft("trunk"), sft("left", **{"from": "trunk"}), sft("right", **{"from": "trunk"}), sft("on", **{"from": "left"})
    )
    finish(house.plan()[0])
    groups.planned = house.plan()
    groups.together = dict.fromkeys(("left", "right"), threading.Barrier(2))
    run(house)
    assert sorted(groups.started) == [(1, ["left", "on"]), (1, ["right"])]


def test_a_stage_that_needs_two_branches_waits_for_both(house, groups):
    student = {"name": "student", "kind": "distill", "data": "chat.jsonl", "from": "trunk", "teacher": "apart"}
    house = house.with_stages(sft("trunk"), sft("apart", base="base"), student)
    groups.planned = house.plan()
    groups.together = dict.fromkeys(("trunk", "apart"), threading.Barrier(2))
    run(house)
    assert sorted(groups.started[:2]) == [(1, ["apart"]), (1, ["trunk"])] and groups.started[2] == (1, ["student"])


def test_where_two_groups_do_not_fit_one_trains_all_in_turn(house, groups):
    house = house.with_stages(
        sft("trunk"), sft("apart", base="base"), sft("on", **{"from": "trunk"}), cluster={"workers": 2}
    )
    groups.planned = house.plan()
    run(house)
    assert groups.started == [(2, ["trunk", "apart", "on"])]


def test_a_branch_that_fails_ends_the_run(house, groups):
    house = house.with_stages(sft("trunk"), sft("apart", base="base"))
    groups.planned = house.plan()
    groups.together = dict.fromkeys(("trunk", "apart"), threading.Barrier(2))
    groups.failing = {"apart"}
    with pytest.raises(StageFailed, match="stage apart failed"):
        run(house)


def test_who_waits_for_the_last_artifact_is_told_of_it_while_the_workers_end(house, monkeypatch, groups):
    planned, told, ended = house.plan(), [], threading.Event()

    def group(*_: Any, **__: Any) -> None:
        for stage in planned:
            finish(stage)
        assert ended.wait(20)

    def when_trained(artifact: Path) -> None:
        told.append(artifact)
        ended.set()

    monkeypatch.setattr(training, "run_group", group)
    runner.run(house.file, out=house.out, when_trained=when_trained)
    assert told == [planned[-1].artifact]
