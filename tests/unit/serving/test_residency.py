"""Which versions a replica holds and what names mean meanwhile, on an engine that only remembers."""

from __future__ import annotations

import asyncio
import shutil

import pytest
from remembered import caught_up, ids

from fettle.errors import UserError
from fettle.registry.reference import reference
from fettle.serving import residency
from fettle.serving.resident import NotPublished


def test_a_name_means_its_new_version_once_that_is_loaded(resident, publish, registry, engine) -> None:
    async def story() -> None:
        published = resident()
        publish("support", "a")
        await caught_up(published)
        old = await published.acquire(reference("support"))
        assert (old.version.id, old.defaults) == ("support:1", {"temperature": 0.5})

        publish("support", "b", alias="candidate")
        await caught_up(published)
        assert (await published.acquire(reference("support@candidate"))).version.id == "support:2"
        assert (await published.acquire(reference("support"))).version.id == "support:1"

        registry.point("support", "production", 2)
        await caught_up(published)
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
        await caught_up(published)
        running = await published.acquire(reference("support"))
        publish("support", "b")
        await caught_up(published)
        assert ids(engine) == ["support:1", "support:2"]

        published.release(running)
        await caught_up(published)
        assert ids(engine) == ["support:2"]
        assert running.folder.is_dir()  # vLLM may read it once more

    asyncio.run(story())


def test_the_engine_reads_copies_and_never_the_registry(resident, publish, registry, engine) -> None:
    async def story() -> None:
        published = resident()
        publish("support", "a")
        await caught_up(published)
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
        await caught_up(published)
        publish("support", "other base" if why == "admission" else "b")
        if why == "engine":
            engine.bad.add("support:2")
        if why == "changed files":
            file = registry.find(reference("support:2")).folder / "adapter_model.safetensors"
            file.write_bytes(b"x")
        for _ in range(3):
            await caught_up(published)

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
        await caught_up(published)
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
        await caught_up(published)
        with pytest.raises(NotPublished, match=said):
            await published.acquire(reference(asked))

    asyncio.run(story())


def test_a_name_that_is_taken_from_the_registry_means_nothing_any_more(resident, publish, registry) -> None:
    async def story() -> None:
        published = resident()
        publish("support", "a")
        await caught_up(published)
        shutil.rmtree(registry.root / "support")
        await caught_up(published)
        with pytest.raises(NotPublished):
            await published.acquire(reference("support"))

    asyncio.run(story())
