"""Names that stay loaded: before others, whatever else is asked for, on replicas that come later too."""

from __future__ import annotations

import asyncio

import pytest
from remembered import caught_up, ids
from typer.testing import CliRunner

from fettle.cli.main import app
from fettle.errors import UserError
from fettle.registry.reference import reference
from fettle.serving.resident import NoRoom


def test_a_pinned_name_is_loaded_first_and_never_pushed_out(resident, publish, registry, engine) -> None:
    async def story() -> None:
        for name in ("a", "b", "c", "pinned"):
            publish(name, "x")
        registry.pin("pinned", True)
        published = resident(most=2)
        await caught_up(published)
        assert "pinned:1" in ids(engine)
        for name in ("a", "b", "c", "a"):
            published.release(await published.acquire(reference(name)))
        assert ids(engine) == ["a:1", "pinned:1"]

    asyncio.run(story())


def test_its_place_is_kept_while_its_files_are_copied(resident, publish, registry, engine) -> None:
    async def story() -> None:
        for name, said in (("a", "x"), ("b", "x"), ("pinned", "large")):
            publish(name, said)
        registry.pin("pinned", True)
        engine.seconds = 0.3
        await caught_up(resident(most=2))
        assert len(engine.there) == 2 and "pinned:1" in ids(engine)

    asyncio.run(story())


def test_a_name_that_is_pinned_later_takes_its_place_and_keeps_it_over_new_versions(
    resident, publish, registry, engine
) -> None:
    async def story() -> None:
        for name in ("a", "b", "c"):
            publish(name, "x")
        published = resident(most=2)
        await caught_up(published)
        for name in ("a", "b"):
            published.release(await published.acquire(reference(name)))
        assert ids(engine) == ["a:1", "b:1"]
        registry.pin("c", True)
        await caught_up(published)
        assert "c:1" in ids(engine)

        publish("c", "y")
        await caught_up(published)
        assert "c:2" in ids(engine) and published.means["c"] == {"production": 2}

    asyncio.run(story())


def test_more_pinned_names_than_places_are_told_to_who_asks(resident, publish, registry, engine) -> None:
    async def story() -> None:
        for name in ("a", "b"):
            publish(name, "x")
            registry.pin(name, True)
        published = resident(most=1)
        await caught_up(published)
        (there,) = ids(engine)
        first, other = ("a", "b") if there == "a:1" else ("b", "a")
        with pytest.raises(NoRoom, match="pinned adapters"):
            await published.acquire(reference(other))
        registry.pin(first, False)
        await caught_up(published)
        assert (await published.acquire(reference(other))).version.name == other

    asyncio.run(story())


def test_the_command_pins_and_lets_go(publish, registry) -> None:
    publish("a", "x")
    run, at = CliRunner(), ["--registry", str(registry.root)]
    assert "a stays loaded" in run.invoke(app, ["pin", "a", *at]).output
    assert "production (pinned)" in run.invoke(app, ["adapters", *at]).output
    run.invoke(app, ["pin", "a", "--off", *at])
    assert registry.pinned() == set()
    assert isinstance(run.invoke(app, ["pin", "nobody", *at]).exception, UserError)
