"""`sweep`: what is read, what is refused, and where a sweep in a file of its own is told of."""

from __future__ import annotations

import pytest
import yaml

from fettle.errors import UserError
from fettle.recipe import load_recipe
from fettle.recipe.load import varied

RECIPE = {"name": "a", "adapter": {"kind": "lora"}, "stages": [{"name": "task", "kind": "sft", "data": "x.jsonl"}]}
SPACE = {"stages.task.lr": {"loguniform": [1e-5, 1e-3]}}


@pytest.fixture
def swept(tmp_path):
    def load(sweep, file=None):
        (tmp_path / "a.yaml").write_text(yaml.safe_dump(RECIPE if file else {**RECIPE, "sweep": sweep}))
        if file:
            (tmp_path / file).write_text(yaml.safe_dump(sweep))
        return load_recipe(tmp_path / "a.yaml", sweep=tmp_path / file if file else None)

    return load


def test_a_sweep_of_a_file_of_its_own_is_that_of_the_recipe(swept):
    told = {"trials": 8, "space": SPACE}
    assert swept(told).sweep == swept(told, "b.yaml").sweep == swept({"sweep": told}, "c.yaml").sweep


def test_a_mistake_in_a_file_of_its_own_names_that_file_and_its_line(swept):
    with pytest.raises(UserError) as raised:
        swept({"trials": 8, "space": SPACE, "serach": "grid"}, "b.yaml")
    assert (raised.value.file.name, raised.value.line, raised.value.field) == ("b.yaml", 1, "sweep.serach")


@pytest.mark.parametrize(
    ("sweep", "said"),
    [
        ({"space": SPACE}, "needs trials"),
        ({"search": "grid", "space": SPACE}, "a grid has no end"),
        ({"search": "grid", "trials": 3, "space": {"adapter.r": {"choice": [1, 2]}}}, "trials has no effect"),
        ({"trials": 4, "rounds": 3, "space": SPACE}, "rounds has no effect with search: random"),
        ({"search": "pbt", "trials": 3, "space": SPACE}, "at least trials: 4"),
        ({"trials": 4, "space": {"adapter.r": {}}}, "give one of choice"),
        ({"trials": 4, "space": {"adapter.r": {"int": [4, 2]}}}, "is not below"),
        ({"trials": 4, "space": {"adapter.dropout": {"loguniform": [0, 1]}}}, "above 0"),
        ({"trials": 4, "space": SPACE, "budget": {"money": 3}}, "price_per_hour"),
        ({"trials": 4, "space": SPACE, "metric": {"name": "evaluate.rouge1"}}, "evaluate.N.SCORE"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused_in_words(swept, sweep, said):
    with pytest.raises(UserError, match=said):
        swept(sweep)


def test_a_budget_in_money_is_one_of_time(swept):
    """6 at 4 an hour is an hour and a half."""
    recipe = swept({"trials": 4, "space": SPACE, "budget": {"money": 6.0, "price_per_hour": 4.0, "minutes": 100}})
    assert recipe.sweep.budget.seconds == 1.5 * 3600


def test_a_sweep_changes_nothing_in_what_a_run_is(swept, tmp_path):
    with_sweep = swept({"trials": 8, "space": SPACE}).digest()
    (tmp_path / "plain.yaml").write_text(yaml.safe_dump(RECIPE))
    assert with_sweep == load_recipe(tmp_path / "plain.yaml").digest()


def test_a_varied_recipe_has_other_values_and_no_sweep(swept):
    recipe = varied(swept({"trials": 8, "space": SPACE}), {"stages.task.lr": 3e-4, "adapter.r": 2})
    assert (recipe.stages[0].lr, recipe.adapter.r, recipe.sweep) == (3e-4, 2, None)


def test_an_unknown_key_of_a_domain_is_told_with_those_that_a_domain_has(swept):
    with pytest.raises(UserError, match="unknown key") as raised:
        swept({"trials": 8, "space": {"stages.task.lr": {"low": 1e-5}}})
    assert raised.value.field == "sweep.space.stages.task.lr.low"
    assert "loguniform" in raised.value.expected and "trials" not in raised.value.expected
