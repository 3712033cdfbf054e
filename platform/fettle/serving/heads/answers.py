"""A replica's part of a request to a model that vLLM does not serve: refused, or handed to what answers its route."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing
from typing import Any

from starlette.responses import JSONResponse

from fettle.errors import UserError
from fettle.serving.failures import failure, no_model
from fettle.serving.heads.served import ServedHead
from fettle.serving.keys import sees
from fettle.serving.question import DIGEST, TAKEN, VERSION, Part, Question, whole
from fettle.serving.tasks import card_of, elsewhere

logger = logging.getLogger(__name__)

Answer = Callable[[Question], Any]
"""An async generator function: from a question to the parts of its answer; raises UserError for the caller's mistakes,
before the first of them."""


class HeadAnswers:
    """routes: what answers each of the task's own."""

    def __init__(self, served: ServedHead, routes: Mapping[str, Answer]) -> None:
        self._served, self._routes = served, routes
        self._created = int(time.time())
        self._told: tuple[tuple[bytes, bytes], ...] = ()
        if served.digest is not None:
            self._told = (VERSION, served.name.encode()), (DIGEST, served.digest.encode())

    def cards(self) -> list[dict[str, Any]]:
        """What can be asked for."""
        served = self._served
        card = card_of(served.name, served.parent, self._created, served.max_model_len)
        return [card | {"task": served.task}]

    async def answer(self, question: Question) -> AsyncIterator[Part]:
        """TAKEN, then the answer; given up on, it ends the request."""
        yield TAKEN
        if (refusal := self._refusal(question)) is not None:
            yield whole(refusal)
            return
        is_begun = False
        try:
            async with aclosing(self._routes[question.path](question)) as parts:
                async for part in parts:
                    yield part if is_begun else part._replace(headers=part.headers + self._told)
                    is_begun = True
        except UserError as error:
            if is_begun:
                raise
            told = f"{error.got} (expected: {error.expected})" if error.expected else error.got
            message = f"{error.field}: {told}" if error.field else told
            yield whole(failure(400, message, param=error.field))
        except RecursionError:
            yield whole(failure(400, "the request's body is nested too deeply"))
        except Exception:
            if is_begun:
                raise
            logger.exception("%s: the model failed", question.id)
            yield whole(failure(500, "the model failed; its replica's log tells why", kind="InternalServerError"))

    def _refusal(self, question: Question) -> JSONResponse | None:
        names = [self._served.name] if sees(question.visible, self._served.name) else []
        asked = question.wanted.get("model") or self._served.name
        if asked not in names:
            return no_model(asked, names)
        return elsewhere(self._served.task, question.path)


def usage_of(prompt: int, completion: int = 0) -> dict[str, int]:
    """As OpenAI tells it, in tokens."""
    return {"prompt_tokens": prompt, "total_tokens": prompt + completion, "completion_tokens": completion}
