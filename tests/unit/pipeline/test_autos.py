"""What stands for `auto`: the fastest way to make a step that fits, told with its figures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_house import chat, lines, write_base

from fettle.needs.machines import Machines, Node, machines_of
from fettle.pipeline.autos import CHOSEN, Chosen, chosen_for
from fettle.pipeline.choosing import Chooser
from fettle.pipeline.plan import plan
from fettle.pipeline.probe import seconds_of
from fettle.pipeline.trial import Trial, as_text, from_text
from fettle.recipe import Recipe, load_recipe

HERE = Machines("this machine", (Node("this machine", 1, 2, 24.0, disk=100.0),))
TIGHT = Machines("this machine", (Node("this machine", 1, 2, 3.0, disk=100.0),))


def recipe(tmp_path: Path, **keys: object) -> Recipe:
    """A stage of four short records a step, by a base of four small layers."""
    config = write_base(tmp_path / "base") / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"num_hidden_layers": 4, "vocab_size": 300}))
    (tmp_path / "chat.jsonl").write_text(lines([chat(number) for number in range(80)]))
    stage = {"name": "teach", "kind": "sft", "data": "chat.jsonl", "max_length": 128, "max_steps": 2}
    stage |= {"batch": {"sequences": 4}, **keys}
    told = {"name": "measured", "base": "./base", "stages": [stage]}
    file = tmp_path / "recipe.json"
    file.write_text(json.dumps(told))
    return load_recipe(file)


def test_the_fastest_is_taken_and_its_rivals_are_told(tmp_path: Path) -> None:
    told = recipe(tmp_path, attention="auto", packing="auto")

    def measure(trial: Trial) -> float:
        return (2.0 if trial.attention == "sdpa" else 1.0) * (1.0 if trial.packing else 1.5)

    found, choices = Chooser(HERE, measure).choose(told)

    assert found.stages[0].attention == "eager" and found.stages[0].packing is True and not found.autos
    assert [choice.field for choice in choices] == ["stages.teach.attention", "stages.teach.packing"]
    assert "measured: sdpa 2 s, eager 1 s a step" in str(choices[0])


def test_what_is_hardly_faster_than_the_rule_is_not_taken(tmp_path: Path) -> None:
    told = recipe(tmp_path, attention="auto")

    found, _ = Chooser(HERE, lambda trial: 1.0 if trial.attention == "sdpa" else 0.97).choose(told)

    assert found.stages[0].attention == "sdpa"


def test_a_step_is_split_into_as_many_parts_as_are_fastest(tmp_path: Path) -> None:
    told = recipe(tmp_path, batch={"sequences": 64, "accumulate": "auto"}, gradient_checkpointing="auto")
    seconds = {1: 4.0, 2: 3.0, 4: 2.0, 8: 5.0, 16: 6.0}

    found, choices = Chooser(HERE, lambda t: seconds[t.accumulate] + t.checkpointing).choose(told)

    assert found.stages[0].batch.accumulate == 4 and found.stages[0].gradient_checkpointing is False
    assert "without ×4 2 s" in choices[0].told


def test_what_does_not_fit_is_not_measured(tmp_path: Path) -> None:
    told = recipe(tmp_path, batch={"sequences": 4096, "accumulate": "auto"}, gradient_checkpointing="auto")
    tried: list[tuple[bool, int]] = []

    def measure(trial: Trial) -> float:
        tried.append((trial.checkpointing, trial.accumulate))
        return 1.0

    found, _ = Chooser(TIGHT, measure).choose(told)

    assert (False, 1) not in tried and tried[0][0] is False
    assert (found.stages[0].gradient_checkpointing, found.stages[0].batch.accumulate) == tried[0]


def test_for_machines_that_are_not_here_the_rule_is_taken_and_told(tmp_path: Path) -> None:
    told = recipe(tmp_path, batch={"sequences": 64, "accumulate": "auto"}, attention="auto")

    found = chosen_for(told, tmp_path / "run", elsewhere=machines_of("8xH100"))

    assert found.recipe.stages[0].batch.accumulate == 1 and found.recipe.stages[0].attention == "sdpa"
    assert all("nothing was measured, since" in line for line in found.lines())


def test_a_run_keeps_what_was_chosen_for_it(tmp_path: Path) -> None:
    told, out = recipe(tmp_path, attention="auto"), tmp_path / "run"
    chooser = Chooser(HERE, lambda trial: 2.0 if trial.attention == "sdpa" else 1.0)
    chooser.choose(told)
    out.mkdir()
    Chosen(told, (), chooser.used).keep(out)

    def measure(trial: Trial) -> float:
        raise AssertionError("it was measured again")

    known = {key: tuple(value) for key, value in json.loads((out / CHOSEN).read_text()).items()}
    found, _ = Chooser(HERE, measure, known).choose(told)

    assert found.stages[0].attention == "eager"


def test_another_batch_is_measured_anew(tmp_path: Path) -> None:
    first = Chooser(HERE, lambda trial: 1.0)
    first.choose(recipe(tmp_path, attention="auto"))
    (tmp_path / "more").mkdir()
    other = recipe(tmp_path / "more", attention="auto", batch={"sequences": 3})

    second = Chooser(HERE, lambda trial: 2.0 if trial.attention == "sdpa" else 1.0, first.used)

    assert second.choose(other)[0].stages[0].attention == "eager"


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("checkpointing", [True, False])
def test_a_trial_takes_time_whatever_it_tries(tmp_path: Path, packing: bool, checkpointing: bool) -> None:
    trials: list[Trial] = []

    def measure(trial: Trial) -> float:
        trials.append(trial)
        return 1.0

    Chooser(HERE, measure).choose(
        recipe(tmp_path, attention="auto", packing=packing, gradient_checkpointing=checkpointing)
    )

    again = from_text(as_text(trials[-1]))
    assert again == trials[-1] and again.packing is packing and again.checkpointing is checkpointing
    assert (seconds_of(again) or 0) > 0


def test_a_plan_shows_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    found = plan(recipe(tmp_path, attention="auto", packing="auto").file)

    assert [choice.field for choice in found.choices] == ["stages.teach.attention", "stages.teach.packing"]
    assert all(choice.told.startswith("measured: ") for choice in found.choices)
    assert list((tmp_path / "cache" / "fettle" / "auto").iterdir())
