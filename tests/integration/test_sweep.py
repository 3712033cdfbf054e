"""A sweep killed in the middle and gone on with, and a population whose worst take over the best: on one Ray."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from safetensors.torch import load_file

import fettle
from fettle.artifact import read_artifact
from fettle.cluster import ray_session
from fettle.recipe import load_recipe
from fettle.tune.ledger import Ledger, Row
from fettle.tune.results import Results
from program import started, wait_until

LR = "stages.answer.lr"


def recipe_in(folder: Path, root: Path, seed: int = 0, **sweep: Any) -> Path:
    """Of a tiny adapter's 8 steps. seed: from which the trials' settings are drawn, too."""
    stage = {
        "name": "answer",
        "kind": "sft",
        "data": str(root / "recipes/northline/chat.jsonl"),
        "max_steps": 8,
        "heldout": {"fraction": 0.05, "max": 20},
        "max_length": 64,
        "batch": {"sequences": 8},
    }
    told = {"name": "swept", "seed": seed, "adapter": {"kind": "lora", "r": 4}, "tracking": "off"}
    told |= {"stages": [stage], "sweep": sweep}
    (folder / "swept.yaml").write_text(yaml.safe_dump(told, sort_keys=False))
    return folder / "swept.yaml"


@pytest.fixture(scope="module")
def killed(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Row]]:
    """(recipe, folder, the trials that were over) of an ASHA sweep whose driver was killed with all it had started."""
    folder = tmp_path_factory.mktemp("killed")
    space = {LR: {"loguniform": [1e-5, 2e-2]}}
    recipe = recipe_in(folder, root, search="asha", trials=5, rounds=4, reduction=2, space=space)
    ledger = Ledger(folder / "out")
    program = started("sweep", recipe, "--out", folder / "out")
    wait_until(lambda: sum(row.is_over for row in ledger.rows()) >= 1, program)
    children = psutil.Process(program.pid).children(recursive=True)
    program.send_signal(signal.SIGKILL)
    program.wait()
    for child in children:
        child.kill()
    psutil.wait_procs(children, timeout=20)
    return recipe, folder / "out", {row.id: row for row in ledger.rows() if row.is_over}


@pytest.fixture(scope="module")
def session() -> Iterator[None]:
    with ray_session(num_cpus=2):
        yield


@pytest.fixture(scope="module")
def gone_on(killed: tuple[Path, Path, dict[str, Row]], session: None) -> Results:
    recipe, out, _ = killed
    return fettle.sweep(recipe, out=out)


def test_what_was_over_before_a_kill_is_kept_and_the_rest_goes_on(killed, gone_on):
    _, _, before = killed
    assert len(gone_on.rows) == 5 and all(row.is_over for row in gone_on.rows)
    assert {row.id: row for row in gone_on.rows if row.id in before} == before


def test_asha_spends_fewer_steps_and_trains_its_best_to_the_end(gone_on):
    assert gone_on.best is not None and gone_on.best.state == "done" and gone_on.best.steps == 8
    assert any(row.state == "stopped" and row.steps < 8 for row in gone_on.rows)
    assert gone_on.steps < 5 * 8


def test_the_best_recipe_runs_from_there_and_finds_its_stage_trained(killed, gone_on):
    _, out, _ = killed
    report = fettle.run(out / "best.yaml", out=out)
    assert report.stages[0].cached
    assert report.stages[0].loss["heldout_after"] == pytest.approx(gone_on.best.score)
    assert load_recipe(out / "best.yaml").stages[0].lr == gone_on.best.settings[LR]


def test_a_sweep_that_is_over_is_told_again_at_once(killed, gone_on, session):
    recipe, out, _ = killed
    began = [file.stat().st_mtime_ns for file in sorted((out / "trials").glob("trial-*.json"))]
    again = fettle.sweep(recipe, out=out)
    assert again.best == gone_on.best
    assert [file.stat().st_mtime_ns for file in sorted((out / "trials").glob("trial-*.json"))] == began


@pytest.fixture(scope="module")
def population(root: Path, session: None, tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("population")
    space = {LR: {"loguniform": [1e-7, 2e-2]}}
    recipe = recipe_in(folder, root, 59, search="pbt", trials=4, rounds=2, space=space)
    return fettle.sweep(recipe, out=folder / "out")


def test_the_worst_take_over_the_weights_of_the_best_and_go_on_with_other_settings(population):
    """At such a rate nothing is learned: its loss after the first round is the base's, and after the second, near that
    of whoever it took the weights of."""
    row, past = next((row, past) for row in population.rows for past in row.past if past.took is not None)
    donor = next(one for one in population.rows if one.id == past.took)
    before = {one.round: one for one in row.past}[past.round - 1]
    theirs = {one.round: one for one in donor.past}[past.round - 1]
    assert before.score > theirs.score + 1
    assert past.score < theirs.score + 0.3
    assert len({past.settings[LR], before.settings[LR], theirs.settings[LR]}) == 3


def test_each_member_of_a_population_ends_with_weights_of_its_own_after_all_steps(population):
    artifacts = [read_artifact(row.artifact) for row in population.rows]
    assert [one.metrics["steps"] for one in artifacts] == [8] * 4
    assert len({one.digest for one in artifacts}) == 4
    row = next(row for row in population.rows if any(past.took for past in row.past))
    weights = load_file(Path(row.artifact) / "adapter_model.safetensors")
    assert max(float(value.abs().max()) for name, value in weights.items() if "lora_B" in name) > 1e-3


def test_the_page_tells_of_it(population):
    assert "took the weights of" in (population.out / "sweep.html").read_text()
    assert json.loads((population.out / "sweep.json").read_text())["best"]["score"] == population.best.score
