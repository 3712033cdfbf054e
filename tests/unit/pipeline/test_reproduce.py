"""A run that is run again: what is told beforehand, what is refused, and the verdict. Nothing is trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from small_house import House, finish
from typer.testing import CliRunner

from fettle.artifact import MANIFEST, digest_folder
from fettle.cli.main import app
from fettle.errors import UserError
from fettle.pipeline import reproduced, runner
from fettle.pipeline.graph import PlannedStage
from fettle.pipeline.reproduce import reproduce
from fettle.registry.folder import FolderRegistry

Spoil = Callable[[PlannedStage], None]


@pytest.fixture
def spoiled(monkeypatch: pytest.MonkeyPatch) -> list[Spoil]:
    """What is done to each stage once it is finished, which happens where its worker group would be."""
    found: list[Spoil] = []

    def train(waiting: Any, *_: Any) -> None:
        for stage in waiting:
            finish(stage)
            for spoil in found:
                spoil(stage)

    monkeypatch.setattr(runner, "train", train)
    monkeypatch.setattr(runner, "write_report", lambda *_: None)  # charts take most of a second
    return found


@pytest.fixture
def first(house: House, spoiled: list[Spoil]) -> House:
    """The house with a whole run, which was not told to a tracker."""
    adapter = {"kind": "lora", "r": 4}
    house = house.with_stages(*house.tree["stages"][:1], house.tree["stages"][1] | {"adapter": adapter})
    runner.run(house.file, out=house.out, set={"seed": 3})
    return house


def again(house: House, what: object, **how: Any) -> tuple[reproduced.StageCompared, ...]:
    return reproduce(str(what), runs=house.folder, **how).stages


def new_weights(stage: PlannedStage) -> None:
    name = "adapter_model.safetensors" if stage.adapter.is_beside else "model.safetensors"
    save_file({"weight": np.zeros((2, 2), np.float32)}, stage.artifact / name)
    told = json.loads((stage.artifact / MANIFEST).read_text())
    (stage.artifact / MANIFEST).write_text(json.dumps(told | {"digest": digest_folder(stage.artifact)}))


def new_losses(stage: PlannedStage) -> None:
    """Other weights, and from the second step on losses that are higher by 0.25 nats."""
    new_weights(stage)
    file = stage.folder / "progress.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    told = [row | {"loss": row["loss"] + 0.25 * (row["step"] > 1)} for row in rows]
    file.write_text("".join(json.dumps(row) + "\n" for row in told))


def test_a_run_that_comes_to_the_same_weights_is_the_very_same(first, capfd):
    (first.folder / "recipe.yaml").unlink()  # the run wrote down what it was
    told = reproduce(str(first.out), runs=first.folder)
    assert (told.verdict, told.is_met) == ("the very same: all weights, bit for bit", True)
    assert told.out == first.folder / "out-reproduced"
    assert [stage.name for stage in told.stages] == ["domain", "instruct"]
    assert "differs" not in capfd.readouterr().out


def test_an_artifact_is_reproduced_up_to_its_stage_and_a_published_one_as_its_original(first):
    domain, instruct = first.plan(seed=3)
    assert [one.name for one in again(first, domain.artifact, out=first.folder / "a")] == ["domain"]
    registry = FolderRegistry(first.folder / "registry")
    registry.publish("support", instruct.artifact)
    found = again(first, "support@candidate", registry=registry.root, out=first.folder / "b")
    assert [one.is_same for one in found] == [True, True]
    with pytest.raises(UserError, match="the run that made support:1 is not in"):
        reproduce("support:1", runs=first.folder / "base", registry=registry.root)


def test_other_weights_with_the_same_losses_are_the_same_within_none(first, spoiled):
    spoiled.append(new_weights)
    told = reproduce("out", runs=first.folder)
    assert (told.verdict, told.is_met) == ("differs: within 0 nats a token at every step, and not bit for bit", False)
    assert str(told.stages[0]) == "model.safetensors differs; the losses are the same at every step"


def test_losses_that_part_are_told_with_the_step_and_the_largest_difference(first, spoiled):
    spoiled.append(new_losses)
    (domain, _) = again(first, "out")
    assert str(domain) == "model.safetensors differs; losses by 0.25 nats at most, from step 2 on"
    assert [reproduce("out", runs=first.folder, within=nats).is_met for nats in (0.2, 0.25)] == [False, True]
    assert reproduce("out", runs=first.folder, within=0.3).verdict.startswith("the same within 0.25 nats a token")


def test_what_differs_ends_with_exit_code_3(first, spoiled):
    spoiled.append(new_losses)
    done = CliRunner().invoke(app, ["reproduce", "out", "--in", str(first.folder)])
    assert done.exit_code == 3
    assert "reproduced differs: within 0.25 nats a token at every step, and not bit for bit" in done.output


def test_data_that_has_changed_is_refused_unless_it_is_taken(first, capfd):
    with open(first.folder / "chat.jsonl", "a") as file:
        file.write((first.folder / "general.jsonl").read_text())
    with pytest.raises(UserError, match=r"what the run was given has changed since: chat\.jsonl \(training\)"):
        again(first, "out")
    assert not (first.folder / "out-reproduced").exists()
    assert [stage.is_same for stage in again(first, "out", is_changed_taken=True)] == [True, True]
    assert "differs    chat.jsonl (training): " in capfd.readouterr().out


def test_another_base_is_told_once_and_refused(first, capfd):
    save_file({"lm_head.weight": np.ones((4, 4), np.float32)}, first.folder / "base" / "model.safetensors")
    with pytest.raises(UserError, match="has changed since: base /"):
        again(first, "out")
    assert capfd.readouterr().out.count("differs    base ") == 1


def test_other_libraries_and_other_code_are_told(first, capfd, monkeypatch):
    versions = reproduced.library_versions()
    monkeypatch.setattr(reproduced, "library_versions", lambda: versions | {"torch": "9.9"})
    monkeypatch.setattr(reproduced, "code_version", lambda: "commit 1")
    again(first, "out")
    told = capfd.readouterr().out
    assert f"differs    torch: {versions['torch']} → 9.9\n" in told and " → commit 1\n" in told


def test_a_file_beside_the_weights_that_names_another_folder_of_the_run_is_no_difference(house, spoiled):
    def write(stage: PlannedStage) -> None:
        (stage.artifact / "base.txt").write_text(f"over {stage.artifact.parents[1]}/artifacts/base")
        (stage.artifact / "run.txt").write_text(stage.artifact.parents[1].name)
        told = json.loads((stage.artifact / MANIFEST).read_text())
        (stage.artifact / MANIFEST).write_text(json.dumps(told | {"digest": digest_folder(stage.artifact)}))

    spoiled.append(write)
    runner.run(house.file, out=house.out)
    (domain, _) = again(house, "out")
    assert domain.is_same and domain.others == ("run.txt",)
    assert str(domain) == "the very same weights, bit for bit; beside the weights run.txt differs"


def test_what_is_published_by_a_run_is_not_published_again(house, spoiled, monkeypatch):
    monkeypatch.setattr(runner, "judge", lambda recipe, *_: seen.append(recipe.publish) or runner.Verdict())
    seen: list[Any] = []
    house = house.with_stages(*house.tree["stages"], publish={"registry": "registry"})
    runner.run(house.file, out=house.out)
    again(house, "out")
    assert [one is not None for one in seen] == [True, False]


@pytest.mark.parametrize(
    ("what", "message"),
    [("nothing", "no run 'nothing' is tracked here"), ("support:3", "support:3 is of a registry")],
)
def test_what_is_not_there_is_a_users_mistake(first, what, message):
    with pytest.raises(UserError, match=message):
        again(first, what)


def test_a_run_is_not_reproduced_over_itself_nor_one_without_a_result(first):
    with pytest.raises(UserError, match="is what shall be reproduced"):
        again(first, "out", out=first.out)
    for stage in first.plan(seed=3):
        (stage.artifact / MANIFEST).unlink()
    with pytest.raises(UserError, match="has finished no stage"):
        again(first, "out")


def test_an_artifact_that_was_edited_is_no_measure(first):
    (first.plan(seed=3)[0].artifact / "config.json").write_text("{}")
    with pytest.raises(UserError, match="no longer match the digest"):
        again(first, "out")


def test_the_recipe_as_it_was_run_is_the_same_recipe(root: Path):
    from fettle.recipe.load import load_recipe, recipe_as_run

    for file in ("smoke.yaml", "rlhf-ppo.yaml", "merge.yaml", "from_nothing.yaml", "summarise.yaml"):
        recipe = load_recipe(root / "recipes" / file)
        settings = json.loads(json.dumps(recipe.model_dump(mode="json", by_alias=True, exclude_unset=True)))
        assert recipe_as_run(settings, recipe.file).digest() == recipe.digest(), file
