"""Canaries: their share, their users, their shadow, and when they are stopped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fettle.cli.main import app as commands
from fettle.errors import UserError
from fettle.registry.canary import Canary
from fettle.registry.folder import FolderRegistry
from fettle.serving.dispatch import Dispatch
from fettle.serving.question import VERSION, Part, Question
from fettle.serving.traffic import Traffic, share_of

Publish = Callable[..., int]


class Counts:
    """Engines that answer at once; statuses: by model, 200 by default."""

    def __init__(self, **statuses: int) -> None:
        self.statuses, self.asked = statuses, []  # type: ignore[var-annotated]

    async def ask(self, question: Question) -> tuple[Part, AsyncIterator[Part]]:
        model = question.wanted["model"]
        self.asked.append(model)

        async def rest() -> AsyncIterator[Part]:
            yield Part(b"", False)

        status = self.statuses.get(model.replace("@", "_"), 200)
        versioned = ((VERSION, model.encode()),) if status not in (404, 503) else ()
        return Part(b"", False, status, versioned), rest()

    async def cards(self) -> list[dict[str, Any]]:
        return []


@pytest.fixture
def two_versions(registry: FolderRegistry, publish: Publish) -> FolderRegistry:
    publish("support", "a")
    publish("support", "b", "candidate")
    return registry


async def asked(registry: FolderRegistry, engines: Counts, users: list[str | None], model: str = "support") -> Traffic:
    """That many requests, each ended well or as its status says."""
    traffic = Traffic([registry])
    await traffic.refresh()
    dispatch = Dispatch(engines, traffic)
    for user in users:
        head, _, outcome = await dispatch.ask(Question("/v1/completions", {"model": model}, "1"), user)
        outcome(head.status or 0, 0.01)
    await asyncio.sleep(0.05)  # shadows
    return traffic


async def watched(registry: FolderRegistry, canary: Canary, answers: list[tuple[str, int, float]]) -> Canary | None:
    """What is left of the canary after answers: of which of its versions (none: production's), status and seconds."""
    traffic = Traffic([registry])
    await traffic.refresh()
    for version, status, seconds in answers:
        traffic.answered("support", canary, version, status, seconds)
    return traffic.canary("support")


def test_a_share_of_the_users_gets_the_canary_and_the_same_ones_every_time(two_versions: FolderRegistry) -> None:
    two_versions.set_canary("support", Canary("candidate", 20))
    users: list[str | None] = [f"user-{number}" for number in range(400)]
    first, second = Counts(), Counts()

    asyncio.run(asked(two_versions, first, users))
    asyncio.run(asked(two_versions, second, users))

    assert first.asked == second.asked
    assert 0.12 < first.asked.count("support@candidate") / 400 < 0.28


def test_users_are_shared_out_anew_for_each_name() -> None:
    users = [f"user-{number}" for number in range(200)]
    both = [(share_of("support", user) < 0.5, share_of("sales", user) < 0.5) for user in users]
    assert 60 < sum(one == other for one, other in both) < 140


@pytest.mark.parametrize("model", ["support:1", "support@candidate", "base"])
def test_only_a_bare_name_has_a_canary(two_versions: FolderRegistry, model: str) -> None:
    two_versions.set_canary("support", Canary("candidate", 100))
    engines = Counts()
    asyncio.run(asked(two_versions, engines, [None] * 3, model))
    assert engines.asked == [model] * 3


def test_a_shadow_gets_copies_and_production_answers(two_versions: FolderRegistry) -> None:
    two_versions.set_canary("support", Canary("candidate", 100, is_shadow=True))
    engines = Counts(support_candidate=500)
    asyncio.run(asked(two_versions, engines, [None] * 4))
    assert sorted(engines.asked) == ["support"] * 4 + ["support@candidate"] * 4


def test_where_the_canary_is_not_to_be_had_production_answers(two_versions: FolderRegistry) -> None:
    two_versions.set_canary("support", Canary("candidate", 100))
    engines = Counts(support_candidate=404)
    asyncio.run(asked(two_versions, engines, [None]))
    assert engines.asked == ["support@candidate", "support"]


def test_a_canary_that_fails_is_stopped_for_good_and_says_why(two_versions: FolderRegistry) -> None:
    two_versions.set_canary("support", Canary("candidate", 100, least=5))
    engines = Counts(support_candidate=500)

    asyncio.run(asked(two_versions, engines, [None] * 8))

    assert engines.asked == ["support@candidate"] * 5 + ["support"] * 3
    stopped = two_versions.canary("support")
    assert stopped is not None and stopped.stopped == "100.0% of its 5 answers are errors, production's 0.0%"
    later = Counts()
    asyncio.run(asked(two_versions, later, [None]))
    assert later.asked == ["support"]


@pytest.mark.parametrize(("slower", "is_stopped"), [(2.0, False), (5.0, True)])
def test_a_canary_that_is_slow_is_stopped(two_versions: FolderRegistry, slower: float, is_stopped: bool) -> None:
    canary = Canary("candidate", 50, least=10, most_slowdown=3)
    two_versions.set_canary("support", canary)

    answers = [("", 200, 0.1), ("support:2", 200, 0.1 * slower)] * 10
    assert (asyncio.run(watched(two_versions, canary, answers)) is None) == is_stopped


def test_a_new_version_of_the_canarys_alias_is_judged_by_itself(two_versions: FolderRegistry) -> None:
    canary = Canary("candidate", 50, least=10)
    two_versions.set_canary("support", canary)

    old = [("support:2", 500, 0.1)] * 9
    new = [("support:3", 200 if number else 500, 0.1) for number in range(9)]
    answers = [answer for pair in zip(old, new, strict=True) for answer in pair]
    assert asyncio.run(watched(two_versions, canary, answers)) == canary


def test_a_name_of_a_given_model_has_no_canary(two_versions: FolderRegistry) -> None:
    two_versions.set_canary("support", Canary("candidate", 100))
    traffic = Traffic([two_versions], taken=("support",))
    asyncio.run(traffic.refresh())
    assert traffic.canary("support") is None


def test_a_callers_own_mistakes_are_not_the_canarys(two_versions: FolderRegistry) -> None:
    two_versions.set_canary("support", Canary("candidate", 100, least=2))
    engines = Counts(support_candidate=400)
    asyncio.run(asked(two_versions, engines, [None] * 6))
    assert engines.asked == ["support@candidate"] * 6


def test_the_commands_begin_list_and_end_it(two_versions: FolderRegistry) -> None:
    run, at = CliRunner(), ["--registry", str(two_versions.root)]

    begun = run.invoke(commands, ["promote", "support", "--percent", "5", *at]).output
    assert "support:2 answers 5 % of the requests for support" in begun
    assert "canary: 5 % of support to support@candidate" in run.invoke(commands, ["adapters", *at]).output
    assert "production is as it was" in run.invoke(commands, ["rollback", "support", *at]).output
    assert two_versions.canary("support") is None and two_versions.aliases("support")["production"] == 1

    run.invoke(commands, ["promote", "support", "--shadow", *at])
    assert two_versions.canary("support") == Canary("candidate", 100, is_shadow=True)
    run.invoke(commands, ["promote", "support", *at])
    assert two_versions.canary("support") is None and two_versions.aliases("support")["production"] == 2


@pytest.mark.parametrize(
    ("told", "field"),
    [({"alias": "production", "percent": 5}, "alias"), ({"alias": "candidate", "percent": 0}, "percent")],
)
def test_a_canary_that_makes_no_sense_is_told(told: dict[str, Any], field: str) -> None:
    with pytest.raises(UserError) as caught:
        Canary(**told)
    assert caught.value.field == field


def test_a_canary_wants_a_version(two_versions: FolderRegistry, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no alias 'beta'"):
        two_versions.set_canary("support", Canary("beta", 5))
