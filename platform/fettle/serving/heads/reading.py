"""What classifiers, reward models and encoders answer: the routes of models that read and do not write."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
from pydantic import Field
from starlette.responses import JSONResponse

from fettle.engine.env import EngineOptions
from fettle.errors import UserError
from fettle.models.base import load_tokenizer
from fettle.serving.heads.answers import Answer, usage_of
from fettle.serving.heads.batcher import Batcher
from fettle.serving.heads.inputs import Body, Reader, checked, inputs_of
from fettle.serving.heads.models import EmbeddingModel, HeadModel
from fettle.serving.heads.served import ServedHead
from fettle.serving.question import Part, Question, whole
from fettle.serving.tasks import CLASSIFY, EMBED, POOL, SCORE

BATCH_TOKENS = 1 << 13  # of what is read at once, with its padding

Numbers = Callable[[Sequence[np.ndarray]], list[np.ndarray]]


class _Vectors(Body):
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, ge=1)


def routes_of(served: ServedHead, options: EngineOptions) -> dict[str, Answer]:
    """The model, loaded and warm, as what answers the routes of its task."""
    tokenizer = load_tokenizer(served.folder)
    pad_id = tokenizer.pad_token_id or 0
    told: dict[str, Any] = {"limit": served.max_model_len}
    if served.task == "embed":
        embedding = EmbeddingModel(served, options, pad_id)
        reader = Reader(tokenizer, vocabulary=embedding.vocabulary, texts="plain", **told)
        return {EMBED: Embedding(served, Reading(reader, embedding.embeddings), embedding.width).answer}
    headed = HeadModel(served, options, pad_id)
    if served.task == "reward":
        reader = Reader(tokenizer, vocabulary=headed.vocabulary, texts="rendered", **told)
        rewarding = Rewarding(served, Reading(reader, headed.scores))
        return {SCORE: rewarding.score, POOL: rewarding.pool}
    reader = Reader(tokenizer, vocabulary=headed.vocabulary, texts="learned" if headed.is_known else "plain", **told)
    reading = Reading(reader, headed.scores)
    return {CLASSIFY: Classifying(served, reading, is_multi_label=headed.is_multi_label).answer}


class Reading:
    """Inputs to the model's numbers, through one thread that tokenizes and another that computes."""

    def __init__(self, reader: Reader, numbers: Numbers) -> None:
        numbers([reader.read("A text.", "input")])  # the first takes longest, and tells whether it works at all
        self.reader = reader
        # A tokenizer is not to be used by two threads at a time.
        self._thread = ThreadPoolExecutor(1, "tokens")
        self._batcher: Batcher[np.ndarray, np.ndarray] = Batcher(numbers, len, BATCH_TOKENS)

    async def numbers(self, read: Callable[[], list[np.ndarray]]) -> tuple[list[np.ndarray], int]:
        """(the model's numbers for each of the texts that `read` gives as token ids, their tokens)."""
        ids = await asyncio.get_running_loop().run_in_executor(self._thread, read)
        return await self._batcher.run(ids), sum(len(one) for one in ids)

    async def of_inputs(self, wanted: dict[str, Any], field: str = "input") -> tuple[list[np.ndarray], int]:
        """The same of the request's `input`, or what is in its place, or `messages`."""
        inputs = inputs_of(wanted, field)
        field = field if wanted.get(field) is not None else "messages"
        names = [f"{field}.{place}" if len(inputs) > 1 else field for place in range(len(inputs))]
        read = self.reader.read
        return await self.numbers(lambda: [read(one, name) for one, name in zip(inputs, names, strict=True)])


class Classifying:
    """vLLM's `/classify`."""

    def __init__(self, served: ServedHead, reading: Reading, *, is_multi_label: bool) -> None:
        self._served, self._reading, self._is_multi_label = served, reading, is_multi_label

    async def answer(self, question: Question) -> AsyncIterator[Part]:
        """Of each text its likeliest label, and the probability of each."""
        found, tokens = await self._reading.of_inputs(question.wanted)
        data = []
        for place, scores in enumerate(found):
            probs = _sigmoid(scores) if self._is_multi_label else _softmax(scores)
            label = self._served.labels[int(probs.argmax())]
            data.append({"index": place, "label": label, "probs": probs.tolist(), "num_classes": len(probs)})
        yield whole(JSONResponse(_list("classify", question, self._served, data, tokens)))


class Rewarding:
    """fettle's own rewards, OpenRLHF's, and vLLM's `/pooling`."""

    def __init__(self, served: ServedHead, reading: Reading) -> None:
        self._served, self._reading = served, reading

    async def score(self, question: Question) -> AsyncIterator[Part]:
        """Of each answer its score, as a recipe's `rewards: [{url: …}]` asks for it; or of each `query`, a prompt and
        its answer as one text that a chat template made, as OpenRLHF does."""
        wanted = question.wanted
        if wanted.get("query") is not None:
            found, tokens = await self._reading.of_inputs({"query": wanted["query"]}, "query")
        else:
            prompts, completions = wanted.get("prompts"), wanted.get("completions")
            if not (isinstance(prompts, list) and isinstance(completions, list) and len(prompts) == len(completions)):
                raise UserError(
                    "no answers to score",
                    field="completions",
                    expected="prompts and completions, a list each, as long as each other",
                )
            pairs, answered = list(zip(prompts, completions, strict=True)), self._reading.reader.answered
            found, tokens = await self._reading.numbers(
                lambda: [answered(*pair, str(place)) for place, pair in enumerate(pairs)]
            )
        scores = [float(one[0]) for one in found]
        told = {"id": f"score-{question.id}", "model": self._served.name, "scores": scores, "rewards": scores}
        yield whole(JSONResponse(told | {"usage": usage_of(tokens)}))

    async def pool(self, question: Question) -> AsyncIterator[Part]:
        """Of each text, or of a conversation, its score as a list of one number."""
        body = checked(_Vectors, question.wanted)
        found, tokens = await self._reading.of_inputs(question.wanted)
        data = [{"index": place, "object": "pooling", "data": _told(one, body)} for place, one in enumerate(found)]
        yield whole(JSONResponse(_list("pool", question, self._served, data, tokens)))


class Embedding:
    """OpenAI's embeddings."""

    def __init__(self, served: ServedHead, reading: Reading, width: int) -> None:
        self._served, self._reading, self._width = served, reading, width

    async def answer(self, question: Question) -> AsyncIterator[Part]:
        """Of each text a vector of length 1."""
        body = checked(_Vectors, question.wanted)
        if body.dimensions not in (None, self._width):
            raise UserError(
                "this model's embeddings are not made to be cut", field="dimensions", expected=str(self._width)
            )
        found, tokens = await self._reading.of_inputs(question.wanted)
        data = [{"index": n, "object": "embedding", "embedding": _told(one, body)} for n, one in enumerate(found)]
        told = _list("embd", question, self._served, data, tokens)
        yield whole(await asyncio.to_thread(JSONResponse, told))  # thousands of vectors take a second to write down


def _list(kind: str, question: Question, served: ServedHead, data: list[Any], tokens: int) -> dict[str, Any]:
    told = {"id": f"{kind}-{question.id}", "object": "list", "created": int(time.time()), "model": served.name}
    return told | {"data": data, "usage": usage_of(tokens)}


def _told(vector: np.ndarray, body: _Vectors) -> Any:
    """base64 is of little-endian float32, as OpenAI's client reads it."""
    if body.encoding_format == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return vector.tolist()


def _softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores.astype(np.float64) - scores.max())
    found: np.ndarray = powers / powers.sum()
    return found


def _sigmoid(scores: np.ndarray) -> np.ndarray:
    found: np.ndarray = 1 / (1 + np.exp(-scores.astype(np.float64)))
    return found
