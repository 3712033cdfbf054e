"""What is kept of trials, and whose folder it is."""

from __future__ import annotations

import json

import pytest

from fettle.errors import UserError
from fettle.recipe.sweep import BudgetSpec
from fettle.tune.budget import Budget
from fettle.tune.ledger import Ledger, Past, Row


def test_a_trial_is_read_as_it_was_written(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.folder.mkdir()
    past = (Past(1, 5, 2.5, {"lr": 0.1}), Past(2, 10, None, {"lr": 0.2}, took="member-03"))
    row = Row("member-01", {"lr": 0.2}, {"lr": 0.1}, "failed", 2.5, "diverged", past=past, progress=("a", "b"))
    ledger.write(row)
    assert ledger.rows() == [row]


def test_trials_are_in_the_order_in_which_they_were_begun(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.folder.mkdir()
    for name, began in (("b", 1.0), ("a", 2.0)):
        ledger.write(Row(name, {}, {}, began=began))
    assert [row.id for row in ledger.rows()] == ["b", "a"]


def test_a_folder_is_one_sweeps(swept, tmp_path):
    ledger = Ledger(tmp_path / "out")
    ledger.open(swept())
    ledger.spent(12.0)
    assert ledger.open(swept(trials=9, concurrent=1, budget={"minutes": 3.0})) == 12.0
    with pytest.raises(UserError, match="holds another sweep: the sweep was another one"):
        ledger.open(swept(search="asha"))
    with pytest.raises(UserError, match="holds another sweep: the recipe was another one"):
        ledger.open(swept(stage={"lr": 5e-4}))


def test_a_budget_is_reached_in_time_money_or_tokens(tmp_path):
    rows = [Row("a", {}, {}, "done", tokens=700), Row("b", {}, {}, progress=(str(tmp_path / "progress.jsonl"),))]
    step = {"step": 1, "steps": 2, "loss": 1.0, "lr": 0.1, "grad_norm": 1.0, "tokens": 300, "loss_tokens": 9}
    (tmp_path / "progress.jsonl").write_text(json.dumps(step | {"seconds": 1.0, "time": 1.0}) + "\n")
    assert Budget(None).reached(1e9, rows) is None
    assert Budget(BudgetSpec(tokens=1001)).reached(5, rows) is None
    assert Budget(BudgetSpec(tokens=1000)).reached(5, rows) == "1,000 tokens"
    assert Budget(BudgetSpec(minutes=1.0)).reached(61, rows) == "1 min 1 s"
    assert Budget(BudgetSpec(money=2.0, price_per_hour=4.0)).reached(1800, rows) == "30 min 0 s, which cost 2.00"


def test_what_is_still_being_written_is_no_trial(swept, tmp_path):
    ledger = Ledger(tmp_path)
    ledger.open(swept())
    (ledger.folder / ".partial-trial-1.json").write_text("{")
    (ledger.folder / ".partial-sweep.json").write_text("{}")
    assert ledger.rows() == []
