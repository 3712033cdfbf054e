"""What a registry's folder says, told to a real MLflow's model registry, once, whatever happens in between."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psutil
import pytest
from bundled_adapter import write_bundled_adapter
from small_house import House, finish
from tracked_house import begun, ended, stage_runs, uri_of
from typer.testing import CliRunner

from fettle.artifact import digest_folder
from fettle.cli.main import app
from fettle.errors import FettleError
from fettle.pipeline import mirror
from fettle.pipeline.tracker import Tracker
from fettle.registry.folder import FolderRegistry


@pytest.fixture
def registry(tracked: House) -> FolderRegistry:
    """One with two versions of `support`, which the house's tracker is to be told of."""
    there = FolderRegistry(tracked.folder / "registry")
    for number in (1, 2):
        there.publish("support", adapter(tracked, number))
    mirror.link(there.root, "support", uri_of(tracked))
    return there


def adapter(house: House, number: int) -> Path:
    """Another one for each number."""
    folder = house.folder / f"adapter-{number}"
    if not folder.is_dir():
        write_bundled_adapter(folder, "support")
        (folder / "note.txt").write_text(str(number))
        told = json.loads((folder / "artifact.json").read_text())
        (folder / "artifact.json").write_text(json.dumps(told | {"digest": digest_folder(folder)}))
    return folder


def versions(house: House, name: str = "support") -> dict[int, dict[str, str]]:
    """MLflow's, by its own number: their tags."""
    found = Tracker(uri_of(house)).client.search_model_versions(f"name = '{name}'")
    return {int(one.version): dict(one.tags) for one in sorted(found, key=lambda one: int(one.version))}


def aliases(house: House, name: str = "support") -> dict[str, int]:
    found = Tracker(uri_of(house)).client.get_registered_model(name).aliases
    return {alias: int(number) for alias, number in found.items()}


def said(house: House, *words: object) -> str:
    """What a command prints, of the house's registry; raises what it raises."""
    env = {"FETTLE_REGISTRY": str(house.folder / "registry")}
    done = CliRunner().invoke(app, [*map(str, words)], env=env)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


def test_versions_and_aliases_are_told_once_and_what_moves_later_is_told_then(tracked, registry):
    for _ in range(2):
        assert mirror.tell_name(registry.root, "support") == ""
        assert [tags["fettle.version"] for tags in versions(tracked).values()] == ["support:1", "support:2"]
    assert aliases(tracked) == {"candidate": 2}
    registry.point("support", "production", 1)
    registry.point("support", "latest", 2)  # a word that MLflow keeps for itself
    assert list(mirror.pending_names(registry.root)) == ["support"]
    assert mirror.tell_name(registry.root, "support") == ""
    assert aliases(tracked) == {"candidate": 2, "production": 1, "alias-latest": 2}
    assert list(mirror.pending_names(registry.root)) == []


def test_a_version_says_what_it_is_and_where_it_lies(tracked, registry):
    mirror.tell_name(registry.root, "support")
    version = registry.versions("support")[0]
    tags = versions(tracked)[1]
    assert tags["fettle.digest"] == version.digest and tags["fettle.kind"] == "adapter"
    assert tags["fettle.number"] == "1" and tags["fettle.published"] == version.published
    assert tags["fettle.base"] == version.base["path"]
    assert Tracker(uri_of(tracked)).client.get_model_version("support", "1").source == str(version.folder)


def test_where_mlflow_numbers_otherwise_show_says_so_and_aliases_are_right(tracked, registry):
    registry.publish("support", adapter(tracked, 3))
    for file in (registry.root / "support" / "versions").glob("1*"):  # deleted before anybody told of it
        file.unlink() if file.is_file() else file.rename(tracked.folder / "away")
    assert mirror.tell_name(registry.root, "support") == ""
    assert {theirs: tags["fettle.number"] for theirs, tags in versions(tracked).items()} == {1: "2", 2: "3"}
    assert aliases(tracked) == {"candidate": 2}
    assert "in MLflow        version 2 of support\n" in said(tracked, "show", "support@candidate")


def test_a_crash_between_mlflow_and_the_note_makes_no_second_version(tracked, registry):
    mirror.tell_name(registry.root, "support")
    mirror._note(registry.root, "support", mirror.Told(uri_of(tracked)))  # as if nothing had been noted
    assert mirror.tell_name(registry.root, "support") == ""
    assert len(versions(tracked)) == 2


def test_a_tracker_that_is_down_leaves_all_as_it_was_and_sync_tells_it_later(tracked, registry):
    mirror.link(registry.root, "support", "http://127.0.0.1:9")
    with pytest.raises(FettleError, match="1 of 1 published names could not be told"):
        said(tracked, "runs", "--sync", "--in", tracked.folder)
    assert "failed" in mirror.told_of_name(registry.root, "support").why
    assert said(tracked, "show", "support:2").startswith("version          support:2, support@candidate\n")
    mirror.link(registry.root, "support", uri_of(tracked))  # it is another one from now on
    assert "support in " in said(tracked, "runs", "--sync", "--in", tracked.folder)
    assert len(versions(tracked)) == 2


def test_a_run_that_publishes_tells_of_it_with_its_stages_run(tracked):
    publish: dict[str, Any] = {"publish": {"registry": "registry"}}
    house = tracked.with_stages(*tracked.tree["stages"], **publish)
    stages, record = begun(house)
    for stage in stages:
        finish(stage)
    version = FolderRegistry(house.folder / "registry").publish("northline", stages[-1].artifact)
    reported = [{"artifact": {"path": str(stage.artifact)}} for stage in stages]
    (house.out / "report.json").write_text(json.dumps({"stages": reported, "published": version.id}))
    (house.out / "report.html").write_text("")
    assert ended(record) == ""
    client = Tracker(uri_of(house)).client
    made = client.get_model_version("northline", "1")
    assert made.run_id == stage_runs(house)["instruct"].info.run_id
    assert aliases(house, "northline") == {"candidate": 1}


def test_promote_returns_at_once_and_a_process_of_its_own_tells(tracked, registry):
    said(tracked, "promote", "support")
    for child in psutil.Process().children():
        if "fettle.pipeline.mirror" in child.cmdline():  # other tests' servers stay
            child.wait(60)
    assert aliases(tracked) == {"candidate": 2, "production": 2}


def test_what_is_published_is_told_to_the_tracker_of_its_own_run_else_to_mlflows_own_setting(tracked, monkeypatch):
    stages, _ = begun(tracked)
    finish(stages[0])
    told = json.loads((stages[0].artifact / "artifact.json").read_text()) | {"recipe": tracked.recipe().digest()}
    (stages[0].artifact / "artifact.json").write_text(json.dumps(told))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example")
    assert mirror.link_of(adapter(tracked, 1)) == "http://mlflow.example"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert mirror.link_of(stages[0].artifact) == uri_of(tracked)
    assert mirror.link_of(adapter(tracked, 1)) is None


def test_a_name_of_which_no_tracker_is_told_starts_no_process(tracked):
    said(tracked, "publish", adapter(tracked, 1))
    assert not (tracked.folder / "registry" / "support" / "tracker").exists()
