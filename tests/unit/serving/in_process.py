"""A gate whose engines are one application in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from starlette.testclient import TestClient

from fettle.serving.engines import Unavailable
from fettle.serving.gate import Gate
from fettle.serving.question import TAKEN, Part, Question


class InProcess:
    """One replica, with its Answers or HeadAnswers, as the gate asks it; None is one that is not there yet."""

    def __init__(self, answers: Any) -> None:
        self.answers = answers

    async def ask(self, question: Question) -> tuple[Part, AsyncIterator[Part]]:
        if self.answers is None:
            raise Unavailable("no replica")
        parts = self.answers.answer(question)
        assert await anext(parts) == TAKEN
        return await anext(parts), parts

    async def cards(self) -> list[dict[str, Any]] | None:
        return None if self.answers is None else self.answers.cards()


def client_of(answers: Any, **keys: Any) -> TestClient:
    return TestClient(Gate(InProcess(answers), **keys), raise_server_exceptions=False)


def error(response: Any) -> tuple[int, str]:
    """Status and message of an answer that is an error of OpenAI's shape."""
    told = response.json()["error"]
    assert set(told) == {"message", "type", "param", "code"} and told["code"] == response.status_code
    return response.status_code, told["message"]
