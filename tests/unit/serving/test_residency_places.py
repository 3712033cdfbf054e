"""More versions than places, requests at the same time, and a registry that changes or goes away meanwhile."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import pytest
from remembered import caught_up, ids

from fettle.registry.reference import reference
from fettle.serving.copies import own_folder
from fettle.serving.resident import NoRoom, NotPublished


def test_thousands_of_unknown_names_leave_nothing_behind(resident, publish) -> None:
    async def story() -> None:
        published = resident()
        publish("support", "a")
        await caught_up(published)
        for number in range(1, 2000):
            with pytest.raises(NotPublished):
                await published.acquire(reference(f"name-{number}"))
        sizes = [len(of) for of in vars(published).values() if isinstance(of, (dict, set))]
        assert max(sizes) <= 1

    asyncio.run(story())


def test_with_more_names_than_places_the_least_recently_used_makes_room(resident, publish, engine) -> None:
    async def story() -> None:
        published = resident(most=3)
        for number in range(10):
            publish(f"name-{number}", "a")
        await caught_up(published)
        for number in [0, 1, 2, 0, 3]:
            published.release(await published.acquire(reference(f"name-{number}")))
        assert ids(engine) == ["name-0:1", "name-2:1", "name-3:1"]

    asyncio.run(story())


def test_a_version_that_answers_requests_is_never_put_out(resident, publish, engine) -> None:
    async def story() -> None:
        published = resident(most=2)
        for name in ("a", "b", "c"):
            publish(name, "x")
        await caught_up(published)
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
        await caught_up(published)
        publish("support", "b", alias="trial")
        found = await asyncio.gather(*(published.acquire(reference("support:2")) for _ in range(20)))
        assert {one.version.id for one in found} == {"support:2"} and found[0].running == 20

    asyncio.run(story())
    assert engine.loads == ["support:1", "support:2"]


def test_a_registry_that_is_away_for_a_while_takes_no_name_away(resident, publish, registry) -> None:
    async def story() -> None:
        published = resident()
        publish("support", "a")
        await caught_up(published)
        registry.root.rename(registry.root.with_name("away"))
        with pytest.raises(OSError, match="there is no registry"):
            await published.refresh()
        assert (await published.acquire(reference("support"))).version.id == "support:1"

    asyncio.run(story())


def test_a_refused_version_changes_nothing_where_there_is_no_room_to_load_it(resident, publish, engine) -> None:
    async def story() -> None:
        published = resident(most=1)
        publish("support", "a")
        await caught_up(published)
        publish("other", "b")
        await caught_up(published)
        published.release(await published.acquire(reference("other")))
        assert ids(engine) == ["other:1"]

        publish("support", "other base")
        await caught_up(published)
        assert published.means["support"] == {"production": 1}

    asyncio.run(story())


def test_versions_that_are_not_there_put_nobody_out(resident, publish, engine) -> None:
    async def story() -> None:
        published = resident(most=2)
        for name in ("a", "b"):
            publish(name, "x")
        await caught_up(published)
        asked = [published.acquire(reference(f"a:{number}")) for number in range(100, 160)]
        found = await asyncio.gather(*asked, return_exceptions=True)
        assert {type(one) for one in found} == {NotPublished}

    asyncio.run(story())
    assert ids(engine) == ["a:1", "b:1"]


def test_as_many_as_there_are_places_for_are_loaded_at_once(resident, publish, engine) -> None:
    async def story() -> None:
        published = resident(most=2)
        for name in "abcde":
            publish(name, "x")
        await caught_up(published)
        found = await asyncio.gather(*(published.acquire(reference(name)) for name in "cde"), return_exceptions=True)
        assert sum(isinstance(one, NoRoom) for one in found) == 1

    asyncio.run(story())
    assert len(engine.there) == 2


def test_a_name_that_was_published_anew_is_answered_by_the_new_files(resident, publish, registry, engine) -> None:
    async def story() -> None:
        published = resident()
        publish("support", "a")
        await caught_up(published)
        shutil.rmtree(registry.root / "support")
        publish("support", "b")
        await caught_up(published)
        resident_now = await published.acquire(reference("support"))
        assert (resident_now.folder / "adapter_model.safetensors").read_bytes() == b"b"

    asyncio.run(story())


def test_a_promotion_that_was_taken_back_while_it_was_loaded_never_answers(resident, publish, registry, engine) -> None:
    async def story() -> None:
        published = resident()
        publish("support", "a")
        await caught_up(published)
        publish("support", "b")
        await published.refresh()  # begins to load
        registry.back("support")
        await published.refresh()
        await published.settled()
        assert published.means == {"support": {"production": 1}}

    asyncio.run(story())


def test_copies_of_processes_that_are_gone_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "fettle-adapters-dead").mkdir()
    (tmp_path / "fettle-adapters-dead" / ".lock").touch()
    os.utime(tmp_path / "fettle-adapters-dead" / ".lock", (0, 0))
    mine = own_folder("fettle-adapters-")
    other = own_folder("fettle-adapters-")
    assert sorted(tmp_path.iterdir()) == sorted([mine, other])
