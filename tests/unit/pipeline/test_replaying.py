"""How much a stage replays is found by training: the smallest share that keeps what it forgets within the budget."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from small_house import House, finish

from fettle.errors import UserError
from fettle.pipeline import replaying, runner
from fettle.pipeline.planned import Planned

RETENTION = {"kind": "retention", "data": "general.jsonl", "budget": 0.1}


@pytest.fixture
def auto(house: House) -> House:
    """A house whose second stage replays as much as it has to."""
    domain, instruct = house.tree["stages"]
    replays = instruct | {"replay": {"data": "general.jsonl", "fraction": "auto"}}
    return house.with_stages(domain, replays, evaluate=[RETENTION], tracking="off")


class Trained:
    """Stands where workers and measurements would be: what is forgotten falls with the share that is replayed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, forgets: dict[float, float]) -> None:
        self.names: list[str] = []
        self.forgets = forgets
        monkeypatch.setattr(runner, "train", self.train)
        monkeypatch.setattr(replaying, "retention", self.retention)
        monkeypatch.setattr(runner, "compare", lambda *_: ())
        monkeypatch.setattr(runner, "judge", lambda *_: runner.Verdict())
        monkeypatch.setattr(runner, "check_evaluations", lambda *_: [])

    def train(self, waiting: Sequence[Planned], *_: Any) -> None:
        for stage in waiting:
            self.names.append(stage.spec.name)
            finish(stage)

    def retention(self, stages: Sequence[Planned], *_: Any, **where: Any) -> Any:
        share = stages[-1].spec.replay.fraction
        row = SimpleNamespace(stage=stages[-1].spec.name, forgetting={"mean": self.forgets[share]})
        return SimpleNamespace(stages=(row,))


def said(capfd: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capfd.readouterr().out.splitlines() if line.startswith("instruct:")]


def test_the_smallest_share_within_the_budget_is_taken(auto, monkeypatch, capfd):
    trained = Trained(monkeypatch, {0.05: 0.4, 0.1: 0.2, 0.2: 0.06})
    report = runner.run(auto.file, out=auto.out)
    assert said(capfd) == [
        "instruct: is trained with 5% replayed",
        "instruct: with 5% replayed it forgets +0.400 nats a token; budget 0.1",
        "instruct: is trained with 10% replayed",
        "instruct: with 10% replayed it forgets +0.200 nats a token; budget 0.1",
        "instruct: is trained with 20% replayed",
        "instruct: with 20% replayed it forgets +0.060 nats a token; budget 0.1",
    ]
    assert trained.names == ["domain", "instruct", "instruct", "instruct"]
    assert [row.cached for row in report.stages] == [False, False]
    taken = auto.recipe(stages__instruct__replay={"data": "general.jsonl", "fraction": 0.2})
    assert report.stages[-1].artifact["path"] == str(runner.plan_stages(taken, auto.out)[-1].artifact)


def test_a_second_run_trains_nothing_and_takes_the_same(auto, monkeypatch, capfd):
    Trained(monkeypatch, {0.05: 0.01})
    first = runner.run(auto.file, out=auto.out)
    again = Trained(monkeypatch, {0.05: 0.01})
    second = runner.run(auto.file, out=auto.out)
    assert second.artifact == first.artifact and again.names == []
    assert [row.cached for row in second.stages] == [True, True]


def test_where_none_is_enough_the_best_goes_on(auto, monkeypatch, capfd):
    Trained(monkeypatch, {0.05: 0.4, 0.1: 0.2, 0.2: 0.3, 0.4: 0.5})
    report = runner.run(auto.file, out=auto.out)
    told = "instruct: no share keeps it within the budget; goes on with 10%, with which it forgets least"
    assert said(capfd)[-1] == told
    taken = auto.recipe(stages__instruct__replay={"data": "general.jsonl", "fraction": 0.1})
    assert report.stages[-1].artifact["path"] == str(runner.plan_stages(taken, auto.out)[-1].artifact)


def test_without_a_budget_it_is_refused_before_anything_is_trained(auto, monkeypatch):
    trained = Trained(monkeypatch, {})
    with pytest.raises(UserError, match="no budget says how much it may") as told:
        runner.run(auto.file, out=auto.out, set={"evaluate": []})
    assert told.value.field == "stages.instruct.replay.fraction" and trained.names == [] and not auto.out.exists()


@pytest.mark.parametrize("share", [0, 1, "some"])
def test_a_share_is_a_number_between_0_and_1_or_auto(auto, share):
    with pytest.raises(UserError, match=r"stages.instruct.replay.fraction"):
        auto.recipe(stages__instruct__replay={"data": "general.jsonl", "fraction": share})
