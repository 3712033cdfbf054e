"""One trial: its rounds, what is told of it once more, and another's checkpoint taken over. The stage only counts."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from counted import counted

from fettle.recipe import Recipe
from fettle.train.checkpoint import Fence
from fettle.train.rounds import tell
from fettle.tune.budget import end_all
from fettle.tune.ledger import Ledger
from fettle.tune.study import Sweep
from fettle.tune.trial import Trial

LR = "stages.answer.lr"
ONE = {"stages": [{"name": "answer", "kind": "sft", "data": "chat.jsonl", "max_steps": 6}]}


@pytest.fixture
def study(swept, tmp_path, monkeypatch):
    """A sweep of a stage of six steps that counts; what it prints stays in the test's output."""
    monkeypatch.setattr("fettle.tune.trial.print_into", lambda file: None)
    out = tmp_path / "out"
    Ledger(out).folder.mkdir(parents=True)
    (out / ".epoch").write_text("now")

    def of(**sweep: Any) -> Sweep:
        recipe: Recipe = swept(top=ONE, space={LR: {"uniform": [0.01, 0.9]}}, **sweep)
        return Sweep(recipe, out, Fence(out / ".epoch", "now"), {"sft": counted}, 3)

    return of


def test_a_whole_trial_is_one_round_and_is_judged_by_its_artifact(study):
    """Six steps of 0.1 from 10."""
    trial = Trial(study(), {LR: 0.1}, {})
    told = trial.step()
    assert told == {"score": pytest.approx(9.4), "round": 1, "done": True}
    assert (trial.row.state, trial.row.steps, trial.row.tokens) == ("done", 6, 600)


def test_a_trial_in_rounds_is_measured_after_each_and_goes_on_where_it_was(study):
    trial = Trial(study(search="asha", rounds=3), {LR: 0.1}, {})
    found = [trial.step() for _ in range(3)]
    assert [one["score"] for one in found] == pytest.approx([9.8, 9.6, 9.4])
    assert [one["done"] for one in found] == [False, False, True]
    assert [past.step for past in trial.row.past] == [2, 4, 6]
    assert (trial.row.state, trial.row.steps) == ("done", 6)


def test_a_trial_of_a_sweep_that_goes_on_tells_what_it_told_before_and_trains_the_rest(study):
    sweep = study(search="asha", rounds=3)
    first = Trial(sweep, {LR: 0.1}, {})
    told = [first.step(), first.step()]
    first.pause()
    steps = Path(first.row.progress[0]).read_text()
    again = Trial(sweep, {LR: 0.1}, {})
    assert [again.step(), again.step()] == told
    assert Path(first.row.progress[0]).read_text() == steps  # nothing was trained for that
    assert again.step() == {"score": pytest.approx(9.4), "round": 3, "done": True}


def test_a_loss_that_is_no_number_ends_the_trial_as_the_worst(study):
    trial = Trial(study(), {LR: 0.6}, {})
    assert trial.step() == {"score": 1e30, "round": 1, "done": True}
    assert (trial.row.state, trial.row.score) == ("failed", None)
    assert trial.row.error == "stage answer diverged: the loss of step 4 is nan"


def test_a_metric_that_is_not_there_says_which_are(study):
    trial = Trial(study(metric={"name": "measures.accuracy.after", "mode": "max"}), {LR: 0.1}, {})
    assert trial.step()["score"] == -1e30
    assert trial.row.error == "the stage's report has no measures.accuracy.after"


def test_two_trials_with_the_same_settings_are_trained_once(study):
    sweep = study()
    Trial(sweep, {LR: 0.1}, {}).step()
    again = Trial(sweep, {LR: 0.1}, {})
    assert again.step() == {"score": pytest.approx(9.4), "round": 1, "done": True}
    assert len(Ledger(sweep.out).rows()) == 1


def test_a_budget_that_ends_leaves_a_checkpoint_and_no_result(study, monkeypatch):
    sweep = study(search="asha", rounds=2)
    trial = Trial(sweep, {LR: 0.1}, {})
    trial.step()
    threading.Timer(0.3, lambda: end_all(Ledger(sweep.out).rows())).start()
    monkeypatch.setattr("fettle.tune.trial.tell", lambda folder, rounds: tell(folder, None if rounds == 2 else rounds))
    assert trial.step() == {"score": 1e30, "round": 2, "done": True}
    assert (trial.row.state, trial.row.steps) == ("running", 3)
    monkeypatch.undo()
    time.sleep(0.4)
    monkeypatch.setattr("fettle.tune.trial.print_into", lambda file: None)
    again = Trial(sweep, {LR: 0.1}, {})
    assert [again.step()["score"], again.step()["score"]] == pytest.approx([9.7, 9.4])


def saved(trial: Trial, folder: Path) -> Path:
    folder.mkdir()
    trial.save(folder)
    return folder


def test_a_member_takes_over_anothers_weights_and_goes_on_with_its_own_rate(study, tmp_path):
    """Two steps of 0.4 are the other's; the four that follow are of 0.1: 10 - 0.8 - 0.4."""
    sweep = study(search="pbt", rounds=3)
    good = Trial(sweep, {LR: 0.4, "member": "member-01"}, {})
    bad = Trial(sweep, {LR: 0.01, "member": "member-02"}, {})
    assert [good.step()["score"], bad.step()["score"]] == pytest.approx([9.2, 9.98])
    taken, _ = saved(good, tmp_path / "good"), saved(bad, tmp_path / "bad")
    good.step()  # and is ahead by a round
    changed = Trial(sweep, {LR: 0.1, "member": "member-02"}, {})
    changed.go_on_from(taken)
    assert [changed.step()["score"], changed.step()["score"]] == pytest.approx([9.0, 8.8])
    row = Ledger(sweep.out).read("member-02")
    assert row is not None and (row.state, row.steps, row.first, row.settings) == ("done", 6, {LR: 0.01}, {LR: 0.1})
    assert [(past.round, past.took, past.settings[LR]) for past in row.past] == [
        *((1, None, 0.01), (2, "member-01", 0.1), (3, None, 0.1)),
    ]
    assert json.loads((Path(row.artifact or "") / "number").read_text()) == pytest.approx(1.2)


def test_a_member_that_diverged_is_rescued_by_anothers_weights(study, tmp_path):
    sweep = study(search="pbt", rounds=2)
    good, bad = (Trial(sweep, {LR: rate, "member": f"member-{rate}"}, {}) for rate in (0.1, 0.6))
    good.step(), bad.step()
    for trial in (good, bad):
        saved(trial, tmp_path / trial.id)
    worst = Trial(sweep, {LR: 0.6, "member": "member-0.6"}, {})
    worst.row = replace(worst.row, state="failed", error="diverged")
    Ledger(sweep.out).write(worst.row)
    rescued = Trial(sweep, {LR: 0.12, "member": "member-0.6"}, {})
    rescued.go_on_from(tmp_path / good.id)
    told = rescued.step()
    assert told["done"] and told["score"] == pytest.approx(10 - 3 * 0.1 - 3 * 0.12)
    assert rescued.row.error == ""
