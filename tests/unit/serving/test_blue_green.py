"""Engines for the versions of a full model in a registry: the new ones warm before the name means them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from fettle.engine.env import EngineOptions
from fettle.errors import UserError
from fettle.registry.folder import FolderRegistry, Version
from fettle.serving import blue_green
from fettle.serving.blue_green import BlueGreen, State
from fettle.serving.followed import Followed, resolve_followed
from fettle.serving.resolve import ServedModel

PublishModel = Callable[..., Version]


class Remembered:
    """Applications that start and end when the test says so."""

    def __init__(self) -> None:
        self.there: dict[str, State] = {}
        self.refuses: set[str] = set()

    async def states(self) -> dict[str, State]:
        return dict(self.there)

    async def start(self, app: str, version: Version) -> None:
        if version.id in self.refuses:
            raise UserError("it makes no sense")
        assert app not in self.there
        self.there[app] = State("starting")

    async def end(self, app: str) -> None:
        self.there[app] = State("ending")

    def now(self, phase: str, of: str) -> None:
        """Every application of one version, by its number, is in a phase from now on."""
        for app in self.there:
            if app.startswith(f"fettle:base:{of}-"):
                self.there[app] = State(phase, "it ran out of memory")  # type: ignore[arg-type]

    @property
    def phases(self) -> dict[str, str]:
        """By version and the how-manieth application of it."""
        return {f"{app.split(':')[2].split('-')[0]}-{app[-1]}": one.phase for app, one in self.there.items()}


@pytest.fixture
def publish_model(tmp_path: Path, registry: FolderRegistry) -> PublishModel:
    """`publish_model("a")`: the next version of `base`, in production unless told otherwise."""

    def make(said: str, alias: str = "production") -> Version:
        folder = tmp_path / f"model-{said}"
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(said.encode())
        return registry.publish("base", folder, alias=alias)

    return make


@pytest.fixture
def apps() -> Remembered:
    return Remembered()


@pytest.fixture
def base(registry: FolderRegistry, apps: Remembered, monkeypatch: pytest.MonkeyPatch) -> BlueGreen:
    monkeypatch.setattr(blue_green, "_NOTICED_S", 0.0)
    served = ServedModel("base", registry.root, "base", chats=False)
    return BlueGreen(Followed("base", registry.root, ("production", "candidate"), served, EngineOptions()), apps)


def step(model: BlueGreen, times: int = 1) -> dict[str, str]:
    """By alias the version that it means after some steps."""

    async def steps() -> None:
        for _ in range(times):
            await model.step()

    asyncio.run(steps())
    return {alias: one.version for alias, one in model.live.items()}


def warm(model: BlueGreen, apps: Remembered, publish_model: PublishModel) -> None:
    """A first version is published, and answers."""
    publish_model("a")
    step(model)
    apps.now("running", "1")
    assert step(model)["production"] == "base:1"


def test_a_name_means_its_new_version_once_its_engines_are_warm_and_then_the_old_ones_end(
    base: BlueGreen, apps: Remembered, publish_model: PublishModel
) -> None:
    publish_model("a")
    assert step(base) == {} and apps.phases == {"1-1": "starting"}
    apps.now("running", "1")
    assert step(base) == {"production": "base:1"}

    publish_model("b")
    assert step(base, 3) == {"production": "base:1"}
    assert apps.phases == {"1-1": "running", "2-1": "starting"}
    apps.now("running", "2")
    assert step(base, 2) == {"production": "base:2"}
    assert apps.phases == {"1-1": "ending", "2-1": "running"}


def test_going_back_starts_engines_anew_while_the_old_ones_still_answer(
    base: BlueGreen, apps: Remembered, publish_model: PublishModel, registry: FolderRegistry
) -> None:
    for number, said in enumerate("ab", start=1):
        publish_model(said)
        step(base)
        apps.now("running", str(number))
        step(base, 2)
    assert apps.phases == {"1-1": "ending", "2-1": "running"}

    registry.back("base")
    assert step(base) == {"production": "base:2"}
    assert apps.phases == {"1-1": "ending", "2-1": "running", "1-2": "starting"}
    apps.there = {app: State("running") if app.endswith("-2") else one for app, one in apps.there.items()}
    assert step(base, 2) == {"production": "base:1"}
    assert apps.phases["2-1"] == "ending"


def test_aliases_of_one_version_share_its_engines(
    base: BlueGreen, apps: Remembered, publish_model: PublishModel, registry: FolderRegistry
) -> None:
    publish_model("a")
    registry.point("base", "candidate", 1)
    step(base)
    apps.now("running", "1")
    assert step(base) == {"production": "base:1", "candidate": "base:1"}
    assert len(apps.there) == 1


@pytest.mark.parametrize("when", ["at once", "later"])
def test_a_version_that_does_not_start_changes_nothing(
    base: BlueGreen, apps: Remembered, publish_model: PublishModel, when: str
) -> None:
    warm(base, apps, publish_model)
    apps.refuses = {"base:2"} if when == "at once" else set()
    publish_model("b")
    step(base)
    apps.now("failed", "2")

    assert step(base, 3) == {"production": "base:1"}
    assert base.refused["production"].startswith("base:2: it ")
    assert {phase for version, phase in apps.phases.items() if version != "1-1"} <= {"ending"}
    publish_model("c")
    step(base)
    apps.now("running", "3")
    assert step(base) == {"production": "base:3"} and base.refused == {}


def test_engines_that_have_answered_are_left_to_ray_serve(
    base: BlueGreen, apps: Remembered, publish_model: PublishModel
) -> None:
    warm(base, apps, publish_model)
    apps.now("failed", "1")
    assert step(base, 2) == {"production": "base:1"}
    assert apps.phases == {"1-1": "failed"}


def test_a_registry_that_is_away_changes_nothing(
    base: BlueGreen, apps: Remembered, publish_model: PublishModel, registry: FolderRegistry, tmp_path: Path
) -> None:
    warm(base, apps, publish_model)
    registry.root.rename(tmp_path / "away")
    with pytest.raises(OSError, match="no registry"):
        step(base)
    assert base.live["production"].version == "base:1" and apps.phases == {"1-1": "running"}


def test_a_successor_of_the_keeper_finds_the_engines_that_there_are(
    base: BlueGreen, apps: Remembered, publish_model: PublishModel
) -> None:
    warm(base, apps, publish_model)
    successor = BlueGreen(base.followed, apps)
    assert step(successor) == {"production": "base:1"} and apps.phases == {"1-1": "running"}

    publish_model("b")  # while there was no keeper
    third = BlueGreen(base.followed, apps)
    assert step(third) == {"production": "base:1"} and apps.phases == {"1-1": "running", "2-1": "starting"}
    apps.now("running", "2")
    assert step(third, 2) == {"production": "base:2"} and apps.phases["1-1"] == "ending"


def test_engines_with_other_options_take_the_place_of_those_that_there_are(
    base: BlueGreen, apps: Remembered, publish_model: PublishModel
) -> None:
    warm(base, apps, publish_model)
    (old,) = apps.there
    successor = BlueGreen(replace(base.followed, deployment={"num_replicas": 2}), apps)
    assert step(successor, 2) == {"production": "base:1"} and successor.live["production"].app == old
    apps.now("running", "1")
    assert step(successor, 2) == {"production": "base:1"} and successor.live["production"].app != old
    assert apps.there[old].phase == "ending"


@pytest.mark.parametrize(
    ("model", "more", "reason"),
    [
        ("base@candidate", {}, "all that its name means are served"),
        ("base:1", {}, "--also ALIAS serves another alias"),
        ("base", {"name": "other"}, "as the registry has it"),
        ("base", {"adapters": {"a": "b"}}, "as the registry has it"),
        ("base", {"also": ["Not one"]}, "is no alias"),
        ("tiny", {"also": ["candidate"]}, "no model that is published in a registry"),
        ("base", {}, "no alias 'production'"),
    ],
)
def test_what_makes_no_sense_is_told_before_anything_starts(
    registry: FolderRegistry, publish_model: PublishModel, model: str, more: dict[str, object], reason: str
) -> None:
    publish_model("a", alias="candidate")
    with pytest.raises(UserError) as caught:
        resolve_followed(model, None, registry=registry.root, **more)  # type: ignore[arg-type]
    assert reason in str(caught.value)


def test_a_folder_is_a_folder(registry: FolderRegistry, publish_model: PublishModel) -> None:
    publish_model("a")
    assert resolve_followed("./base", None, registry=registry.root) is None
    assert resolve_followed("base", None, registry=None) is None
