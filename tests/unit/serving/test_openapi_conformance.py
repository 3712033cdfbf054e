"""Requests made from the endpoint's own OpenAPI document, through the gate to real models that vLLM does not serve, and
to a registry."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from head_folders import LINES, answers_of, write_embedder, write_headed
from in_process import InProcess

from conforming import tried
from fettle.registry.folder import FolderRegistry
from fettle.serving.access import Access
from fettle.serving.gate import ROUTES, Gate
from fettle.serving.keys import KeyFile
from fettle.serving.openapi import PATH
from fettle.serving.question import TAKEN, Part, Question
from fettle.serving.tasks import CHAT, CLASSIFY, COMPLETE, EMBED, POOL, SCORE
from small_t5 import make_t5

NAME = "any"


class ByRoute:
    """Engines of which each answers its own routes, under one name."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self._answers = answers

    async def ask(self, question: Question) -> tuple[Part, AsyncIterator[Part]]:
        if question.wanted.get("model") == NAME:
            question = question._replace(wanted={**question.wanted, "model": None})
        parts = self._answers[question.path].answer(question)
        assert await anext(parts) == TAKEN
        return await anext(parts), parts

    async def cards(self) -> list[dict[str, Any]] | None:
        return [card for answers in self._answers.values() for card in answers.cards()]


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> ByRoute:
    folder = tmp_path_factory.mktemp("models")
    writes = answers_of(make_t5(folder / "writes", LINES * 20))
    reward = answers_of(write_headed(folder / "reward", ()))
    classify, embed = answers_of(write_headed(folder / "classify")), answers_of(write_embedder(folder / "embed"))
    return ByRoute({COMPLETE: writes, CHAT: writes, SCORE: reward, POOL: reward, CLASSIFY: classify, EMBED: embed})


def test_every_answer_is_as_the_document_says(
    engines: ByRoute, registry: FolderRegistry, publish: Any, tmp_path: Path
) -> None:
    publish("support", "a")
    publish("support", "b", "candidate")
    keys = KeyFile(tmp_path / "keys.json")
    headers = {"Authorization": f"Bearer {keys.create('ops', scopes=('admin',))}"}
    gate = Gate(engines, Access(keys), registries=[registry])

    trial = tried(lambda config: schemathesis.openapi.from_asgi(PATH, gate, config=config), headers, 15, NAME)

    print(trial.asked, trial.statuses)
    assert trial.wrong == []
    assert set(trial.asked) == {f"{method} {path}" for method, path in ROUTES if path != PATH}


def test_without_an_engine_every_route_says_when_to_come_again() -> None:
    gate = Gate(InProcess(None))

    trial = tried(lambda config: schemathesis.openapi.from_asgi(PATH, gate, config=config), {}, 3)

    assert trial.wrong == [] and trial.statuses[503] > 50
