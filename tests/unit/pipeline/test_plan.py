"""A recipe planned: what fits, what does not, and what would."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fettle.errors import DoesNotFit, UserError
from fettle.needs.memory import HOST_LEVEL
from fettle.pipeline.plan import check_fits, plan, refusal
from fettle.recipe import load_recipe

BIG = {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": False,
    "dtype": "bfloat16",
}


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A stage of eight billion weights, of which only the configuration is there."""
    (tmp_path / "big").mkdir()
    (tmp_path / "big" / "config.json").write_text(json.dumps(BIG))
    rows = [{"prompt": f"What is {n}?", "completion": "A number."} for n in range(40)]
    (tmp_path / "ask.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    file = tmp_path / "recipe.yaml"
    file.write_text("name: big\nbase: ./big\nstages:\n  - {name: ask, kind: sft, data: ask.jsonl, max_length: 512}\n")
    return file


def test_a_small_recipe_fits_this_machine_with_steps_and_time(root: Path) -> None:
    found = plan(root / "recipes" / "smoke.yaml")

    assert found.fits and refusal(found) is None
    assert [stage.steps for stage in found.stages] == [4, 4]
    assert found.seconds and found.dollars is not None


def test_every_stage_of_the_demo_is_planned_with_what_is_beside_it(root: Path) -> None:
    found = {stage.name: stage for stage in plan(root / "recipes" / "demo.yaml").stages}

    assert list(found) == ["domain", "instruct", "taste", "align", "final"]
    assert {one.name: one.count for one in found["align"].beside} == {"engine": 2, "reward model taste": 1}
    assert any(name.startswith("critic") for name in found["align"].peak.parts)
    assert "weights to the engines" in {moment.name for moment in found["align"].moments}


def test_what_does_not_fit_is_told_with_changes_that_do(recipe: Path) -> None:
    found = plan(recipe, gpus="8xH100")

    assert found.sets == {"cluster.gpus_per_worker": "1"}
    (changes,) = found.changes.values()
    assert changes and not found.fits
    for change in changes:
        assert plan(recipe, {**found.sets, **change.sets}, gpus="8xH100").fits


def test_the_refusal_names_the_stage_and_the_lines_to_add(recipe: Path) -> None:
    refused = refusal(plan(recipe, {"adapter": "lora"}, gpus="1xT4"))

    assert isinstance(refused, DoesNotFit)
    assert refused.field == "stages.ask" and "--set" in (refused.fix or "") and refused.exit_code == 2


def test_a_run_is_refused_in_the_same_words(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    told: Any = SimpleNamespace(total=8 << 30)
    monkeypatch.setattr("psutil.virtual_memory", lambda: told)
    disk: Any = SimpleNamespace(free=50 << 30)  # as it is, it would be another one the next time
    monkeypatch.setattr("shutil.disk_usage", lambda folder: disk)

    with pytest.raises(DoesNotFit) as caught:
        check_fits(load_recipe(recipe), recipe.parent / "out", None)

    assert str(caught.value) == str(refusal(plan(recipe)))


def test_a_run_that_a_plan_cannot_be_sure_of_is_warned_and_goes_on(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (stage,) = plan(recipe, {"adapter": "lora"}).stages
    there = (stage.peak.total + HOST_LEVEL) / 1.02  # which is more than 97 % of it by less than a tenth
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(total=there))

    line = check_fits(load_recipe(recipe, {"adapter": "lora"}), recipe.parent / "out", None)

    assert line is not None and line.startswith("plan      may not fit: ")


def test_a_run_that_fits_says_so_in_a_line(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    line = check_fits(load_recipe(root / "recipes" / "smoke.yaml"), Path("out"), None)

    assert line is not None and line.startswith("plan      fits: ")


def test_a_cluster_that_a_run_joins_is_not_judged_by_this_machine(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")

    assert check_fits(load_recipe(recipe), Path("out"), None) is None


def test_more_workers_than_cores_are_told_with_fewer(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)

    found = plan(root / "recipes" / "smoke.yaml", {"cluster.workers": 3})

    assert "3 CPU cores" in found.stages[0].problems[0]
    assert found.changes["domain"][0].sets == {"cluster.workers": "2"}


def test_a_disk_that_is_too_small_is_told_with_fewer_checkpoints(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smoke, many, one = (root / "recipes" / "smoke.yaml", *({"stages.domain.checkpoint.keep": n} for n in (5, 1)))
    free = (plan(smoke, many).stages[0].disk + plan(smoke, one).stages[0].disk) // 2
    disk: Any = SimpleNamespace(free=free)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: disk)

    found = plan(smoke, many)

    assert found.stages[0].problems[0].startswith("checkpoints and artifact take ")
    assert found.changes["domain"][0].sets == {"stages.domain.checkpoint.keep": "1"}


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"set": {"base": "./nowhere"}}, "nowhere"),
        ({"set": {"base": "tiny", "stages.ask.data": "none.jsonl"}}, "none.jsonl"),
        ({"until": "answer"}, "no such stage"),
        ({"gpus": "8xH100", "on": "cluster.yaml"}, "--gpus and --on"),
        ({"gpus": "many"}, "no GPU"),
    ],
)
def test_a_mistake_is_one_message(recipe: Path, told: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        plan(recipe, **told)
