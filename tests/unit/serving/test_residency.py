"""Which versions a replica holds and what names mean meanwhile, on an engine that only remembers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fettle.data.neutral import Neutral
from fettle.errors import UserError
from fettle.registry.folder import FolderRegistry
from fettle.registry.reference import reference
from fettle.serving import residency
from fettle.serving.residency import NoRoom, NotPublished, Residency
from fettle.serving.resolve import ServedAdapter

Publish = Callable[..., int]


class Remembers:
    """The engine's adapters: by id the folder each was loaded from. What is in `bad` cannot be loaded."""

    def __init__(self) -> None:
        self.there: dict[str, Path] = {}
        self.loads: list[str] = []
        self.bad: set[str] = set()

    async def put(self, name: str, folder: Path) -> None:
        self.loads.append(name)
        await asyncio.sleep(0)
        if name in self.bad:
            raise UserError(f"adapter '{name}' cannot be loaded: rank")
        self.there[name] = folder

    async def remove(self, name: str) -> None:
        del self.there[name]
        await asyncio.sleep(0)


@pytest.fixture
def registry(tmp_path: Path) -> FolderRegistry:
    return FolderRegistry(tmp_path / "registry")


@pytest.fixture
def publish(tmp_path: Path, registry: FolderRegistry) -> Publish:
    """`publish("support", "a")`: its next version, whose file says "a", in production unless told otherwise."""

    def make(name: str, said: str, alias: str = "production") -> int:
        folder = tmp_path / f"{name}-{said}"
        folder.mkdir()
        (folder / "adapter_config.json").write_text(json.dumps({"said": said}))
        (folder / "adapter_model.safetensors").write_bytes(said.encode())
        return registry.publish(name, folder, alias=alias).number

    return make


@pytest.fixture
def engine() -> Remembers:
    return Remembers()


@pytest.fixture
def resident(registry: FolderRegistry, engine: Remembers) -> Callable[..., Residency]:
    def make(most: int = 4) -> Residency:
        def admit(name: str, folder: Path) -> ServedAdapter:
            said = json.loads((folder / "adapter_config.json").read_text())["said"]
            if said == "other base":
                raise UserError("it was not made for this base")
            return ServedAdapter(name, folder, 4, {"temperature": 0.5})

        told: Any = engine
        return Residency(registry, told, admit, lambda _: Neutral([]), most=most)

    return make


def ids(engine: Remembers) -> list[str]:
    return sorted(engine.there)


def test_a_name_means_its_new_version_once_that_is_loaded(resident, publish, registry, engine) -> None:
    async def story() -> None:
        published = resident()
        publish("support", "a")
        await published.refresh()
        old = await published.acquire(reference("support"))
        assert (old.version.id, old.defaults) == ("support:1", {"temperature": 0.5})

        publish("support", "b", alias="candidate")
        await published.refresh()
        assert (await published.acquire(reference("support@candidate"))).version.id == "support:2"
        assert (await published.acquire(reference("support"))).version.id == "support:1"

        registry.point("support", "production", 2)
        await published.refresh()
        assert (await published.acquire(reference("support"))).version.id == "support:2"
        assert (await published.acquire(reference("support:1"))) is old
        assert published.means == {"support": {"production": 2, "candidate": 2}}

    asyncio.run(story())
    assert ids(engine) == ["support:1", "support:2"]


def test_a_version_that_no_name_means_leaves_after_its_last_request(
    resident, publish, engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(residency, "_UNMEANT_STAY_S", 0.0)

    async def story() -> None:
        published = resident()
        publish("support", "a")
        await published.refresh()
        running = await published.acquire(reference("support"))
        publish("support", "b")
        await published.refresh()
        assert ids(engine) == ["support:1", "support:2"]

        published.release(running)
        await published.refresh()
        assert ids(engine) == ["support:2"]
        assert running.folder.is_dir()  # vLLM may read it once more

    asyncio.run(story())


def test_the_engine_reads_copies_and_never_the_registry(resident, publish, registry, engine) -> None:
    async def story() -> None:
        published = resident()
        publish("support", "a")
        await published.refresh()
        folder = engine.there["support:1"]
        assert not folder.is_relative_to(registry.root)
        assert (folder / "adapter_model.safetensors").read_bytes() == b"a"
        published.close()
        assert not folder.exists()

    asyncio.run(story())


@pytest.mark.parametrize("why", ["admission", "engine", "changed files"])
def test_a_version_that_is_refused_changes_nothing_and_is_not_tried_again(
    resident, publish, registry, engine, why: str
) -> None:
    async def story() -> None:
        published = resident()
        publish("support", "a")
        await published.refresh()
        publish("support", "other base" if why == "admission" else "b")
        if why == "engine":
            engine.bad.add("support:2")
        if why == "changed files":
            file = registry.find(reference("support:2")).folder / "adapter_model.safetensors"
            file.write_bytes(b"x")
        for _ in range(3):
            await published.refresh()

        assert published.means == {"support": {"production": 1}}
        assert (await published.acquire(reference("support"))).version.id == "support:1"
        assert engine.loads.count("support:2") == (1 if why == "engine" else 0)
        with pytest.raises(UserError):
            await published.acquire(reference("support:2"))

    asyncio.run(story())
    assert ids(engine) == ["support:1"]


def test_a_name_whose_only_version_is_refused_says_why(resident, publish) -> None:
    async def story() -> None:
        published = resident()
        publish("support", "other base")
        await published.refresh()
        with pytest.raises(UserError, match="it was not made for this base"):
            await published.acquire(reference("support"))

    asyncio.run(story())


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("suport", "nothing is published as 'suport'"),
        ("support@nobody", "has no version in nobody; there is support@production"),
        ("support:9", "has no version 9"),
    ],
)
def test_what_is_not_published_is_told(resident, publish, asked: str, said: str) -> None:
    async def story() -> None:
        published = resident()
        publish("support", "a")
        await published.refresh()
        with pytest.raises(NotPublished, match=said):
            await published.acquire(reference(asked))

    asyncio.run(story())


def test_thousands_of_unknown_names_leave_nothing_behind(resident, publish) -> None:
    async def story() -> None:
        published = resident()
        publish("support", "a")
        await published.refresh()
        for number in range(1, 2000):
            with pytest.raises(NotPublished):
                await published.acquire(reference(f"name-{number}"))
        sizes = [len(of) for of in vars(published).values() if isinstance(of, dict)]
        assert max(sizes) <= 1

    asyncio.run(story())


def test_with_more_names_than_places_the_least_recently_used_makes_room(resident, publish, engine) -> None:
    async def story() -> None:
        published = resident(most=3)
        for number in range(10):
            publish(f"name-{number}", "a")
        await published.refresh()
        for number in [0, 1, 2, 0, 3]:
            published.release(await published.acquire(reference(f"name-{number}")))
        assert ids(engine) == ["name-0:1", "name-2:1", "name-3:1"]

    asyncio.run(story())


def test_a_version_that_answers_requests_is_never_put_out(resident, publish, engine) -> None:
    async def story() -> None:
        published = resident(most=2)
        for name in ("a", "b", "c"):
            publish(name, "x")
        await published.refresh()
        running = [await published.acquire(reference(name)) for name in ("a", "b")]
        with pytest.raises(NoRoom, match="all 2 places"):
            await published.acquire(reference("c"))
        published.release(running[0])
        assert (await published.acquire(reference("c"))).version.id == "c:1"

    asyncio.run(story())
    assert ids(engine) == ["b:1", "c:1"]


def test_however_many_ask_at_once_a_version_is_loaded_once(resident, publish, engine) -> None:
    async def story() -> None:
        published = resident()
        publish("support", "a")
        await published.refresh()
        publish("support", "b", alias="trial")
        found = await asyncio.gather(*(published.acquire(reference("support:2")) for _ in range(20)))
        assert {one.version.id for one in found} == {"support:2"} and found[0].running == 20

    asyncio.run(story())
    assert engine.loads == ["support:1", "support:2"]


def test_a_name_that_is_taken_from_the_registry_means_nothing_any_more(resident, publish, registry) -> None:
    import shutil

    async def story() -> None:
        published = resident()
        publish("support", "a")
        await published.refresh()
        shutil.rmtree(registry.root / "support")
        await published.refresh()
        with pytest.raises(NotPublished):
            await published.acquire(reference("support"))

    asyncio.run(story())
