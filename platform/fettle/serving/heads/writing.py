"""Encoder-decoder models on OpenAI's routes for text, whole or streamed."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field
from starlette.responses import JSONResponse

from fettle.data.coder import Coder, end_ids
from fettle.data.record import Prompt, Record
from fettle.engine.env import EngineOptions
from fettle.errors import UserError
from fettle.models.base import load_tokenizer
from fettle.models.generate import generate, load_speaker
from fettle.serving.heads.answers import Answer, usage_of
from fettle.serving.heads.batcher import Batcher
from fettle.serving.heads.inputs import Body, Input, check_ids, checked, inputs_of, messages_in
from fettle.serving.heads.models import dtype_for
from fettle.serving.heads.served import ServedHead
from fettle.serving.heads.written import Drawing, Finish, Row, Watching
from fettle.serving.question import Part, Question, whole
from fettle.serving.tasks import CHAT, COMPLETE

_BATCH_TOKENS = 1 << 13  # of prompts and answers, with their padding
_TOKENS = 16  # of a completion that names no other number, as OpenAI has it
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("logprobs", "echo", "ignore_eos", "return_token_ids"), (False,)),
    **dict.fromkeys(("suffix", "logit_bias", "tools", "stop_token_ids", "structured_outputs"), ("", {}, [])),
    **dict.fromkeys(("presence_penalty", "frequency_penalty", "min_p", "min_tokens"), (0,)),
    **dict.fromkeys(("best_of", "repetition_penalty"), (1,)),
    "top_k": (0, -1),
    "response_format": ({"type": "text"},),
    **dict.fromkeys(("top_logprobs", "prompt_logprobs"), ()),
}
"""Fields that are not followed here, with the values that ask for nothing."""
_STREAM = ((b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache"))

Pieces = AsyncGenerator[tuple[int, str, Finish | None], None]


class _Asked(Body):
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float = Field(1.0, ge=0, allow_inf_nan=False)
    top_p: float = Field(1.0, gt=0, le=1)
    seed: int | None = None
    stop: str | list[str] | None = None
    n: int = Field(1, ge=1)
    stream: bool = False


def routes_of(served: ServedHead, options: EngineOptions) -> dict[str, Answer]:
    """The model, loaded and warm, as what answers its routes."""
    writing = Writing(served, options)
    return {COMPLETE: writing.complete, CHAT: writing.chat}


class Writing:
    """One model, in one thread: requests that come while it writes are written together, next."""

    def __init__(self, served: ServedHead, options: EngineOptions) -> None:
        self._served = served
        self._tokenizer = load_tokenizer(served.folder)
        self._coder, self._end_ids = Coder(self._tokenizer, is_halved=True), end_ids(self._tokenizer)
        self._model = load_speaker(served.base, served.adapter, dtype_for(served, options))
        self._vocabulary = int(self._model.get_input_embeddings().num_embeddings)
        self._batcher: Batcher[Row, None] = Batcher(self._write, len, _BATCH_TOKENS)
        self._thread = ThreadPoolExecutor(1, "tokens")  # a tokenizer is not to be used by two threads at a time
        self._write([Row(self._text("A text."), 2, 0, 1, [0], [], lambda text, finish: None)])

    async def complete(self, question: Question) -> AsyncIterator[Part]:
        """OpenAI's completions; the prompt is the caller's own text, and names of control tokens in it are those."""
        inputs = inputs_of({"prompt": question.wanted.get("prompt")}, "prompt")
        async for part in self._answer(question, lambda: [self._text(one) for one in inputs], is_chat=False):
            yield part

    async def chat(self, question: Question) -> AsyncIterator[Part]:
        """OpenAI's chat completions, of a model with a chat template."""
        if not self._served.chats:
            raise UserError(
                "this model has no chat template: it was not trained on messages",
                field="messages",
                expected=f"a prompt, to POST {COMPLETE}",
            )
        turns = messages_in(question.wanted.get("messages"), "messages")
        record = Record(Path("request"), 0, prompt=Prompt(turns))
        async for part in self._answer(question, lambda: [next(self._coder.code([record]))[0]], is_chat=True):
            yield part

    async def _answer(self, question: Question, read: Any, *, is_chat: bool) -> AsyncIterator[Part]:
        asked = checked(_Asked, question.wanted)
        _check_followed(question.wanted)
        loop = asyncio.get_running_loop()
        prompts = await loop.run_in_executor(self._thread, read)
        for ids in prompts:
            check_ids(ids, self._served.max_model_len, self._vocabulary, "messages" if is_chat else "prompt")
        pieces: asyncio.Queue[tuple[int, str, Finish | None] | None] = asyncio.Queue()
        longest = self._served.max_model_len
        given = asked.max_completion_tokens if is_chat and asked.max_completion_tokens else asked.max_tokens
        if given is not None and given > longest:
            raise UserError(f"{given} tokens; this model writes {longest} at most", field="max_tokens")
        seed = secrets.randbits(63) if asked.seed is None else asked.seed
        rows: list[Row] = []
        for prompt in prompts:
            for sample in range(asked.n):
                # From the thread that writes into the loop that answers.
                put = partial(_put, loop, pieces, len(rows))
                stops = [asked.stop] if isinstance(asked.stop, str) else asked.stop or []
                rows.append(
                    Row(
                        prompt,
                        given or (longest if is_chat else _TOKENS),
                        asked.temperature,
                        asked.top_p,
                        (seed, sample),
                        [stop for stop in stops if stop],
                        put,
                    )
                )
        shape = _Shape(question, self._served.name, is_chat)
        usage = partial(_usage, prompts, rows)
        async with aclosing(self._pieces(rows, pieces)) as written:
            if asked.stream:
                async for part in _streamed(written, shape, usage):
                    yield part
            else:
                texts: list[list[str]] = [[] for _ in rows]
                async for place, text, _ in written:
                    texts[place].append(text)
                finished = [("".join(said), row.finish) for said, row in zip(texts, rows, strict=True)]
                yield whole(JSONResponse(shape.whole(finished) | {"usage": usage()}))

    async def _pieces(self, rows: list[Row], pieces: asyncio.Queue[Any]) -> Pieces:
        """(row, new text, why it ended with it) as they are written; given up on, they are written no further."""
        running = asyncio.create_task(self._batcher.run(rows))
        running.add_done_callback(lambda _: pieces.put_nowait(None))
        try:
            while (piece := await pieces.get()) is not None:
                yield piece
            await running  # raises what it raised
        finally:
            running.cancel()
            for row in rows:
                row.is_left = True

    def _write(self, rows: list[Row]) -> list[None]:
        generate(
            self._model,
            [row.prompt for row in rows],
            end_ids=self._end_ids,
            pad_id=self._tokenizer.pad_token_id or 0,
            max_new_tokens=max(row.max_tokens for row in rows),
            processors=[Drawing(rows)],
            stopping=[Watching(rows, self._end_ids, self._decode)],
        )
        return [None] * len(rows)

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))

    def _text(self, one: Input) -> np.ndarray:
        """As `code_halves` has a prompt: with the tokens around a text, and its end."""
        if isinstance(one, list):
            return np.asarray(one)
        ids = self._tokenizer(one, verbose=False)["input_ids"]
        eos = self._tokenizer.eos_token_id
        return np.asarray(ids if ids[-1:] == [eos] else [*ids, eos])


class _Shape:
    """OpenAI's objects around what was written."""

    def __init__(self, question: Question, model: str, is_chat: bool) -> None:
        self._is_chat = is_chat
        self._told = {"created": int(time.time()), "model": model}
        self._told["id"] = f"{'chatcmpl' if is_chat else 'cmpl'}-{question.id}"

    def whole(self, finished: Sequence[tuple[str, Finish | None]]) -> dict[str, Any]:
        """An answer's, but for its usage."""
        choices = [self._choice(place, text, finish) for place, (text, finish) in enumerate(finished)]
        return self._told | {"object": "chat.completion" if self._is_chat else "text_completion", "choices": choices}

    def event(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        """One of a stream."""
        kind = "chat.completion.chunk" if self._is_chat else "text_completion"
        return f"data: {json.dumps(self._told | {'object': kind, 'choices': choices} | more)}\n\n".encode()

    def piece(self, place: int, text: str, finish: Finish | None, *, is_first: bool) -> dict[str, Any]:
        """A choice of an event."""
        if not self._is_chat:
            return self._choice(place, text, finish)
        delta = {"role": "assistant", "content": text} if is_first else {"content": text}
        return {"index": place, "delta": delta, "logprobs": None, "finish_reason": finish}

    def _choice(self, place: int, text: str, finish: Finish | None) -> dict[str, Any]:
        said = {"message": {"role": "assistant", "content": text}} if self._is_chat else {"text": text}
        return {"index": place, **said, "logprobs": None, "finish_reason": finish}


async def _streamed(written: Pieces, shape: _Shape, usage: Any) -> AsyncIterator[Part]:
    """Server-sent events; the last but one tells the usage, which the gate passes on to those who asked for it."""
    headers: tuple[tuple[bytes, bytes], ...] = _STREAM
    begun: set[int] = set()
    async for place, text, finish in written:
        if not text and finish is None and place in begun:
            continue
        event = shape.event([shape.piece(place, text, finish, is_first=place not in begun)])
        begun.add(place)
        yield Part(event, True, 200 if headers else None, headers)
        headers = ()
    yield Part(shape.event([], usage=usage()) + b"data: [DONE]\n\n", False)


def _put(
    loop: asyncio.AbstractEventLoop, pieces: asyncio.Queue[Any], place: int, text: str, finish: Finish | None
) -> None:
    loop.call_soon_threadsafe(pieces.put_nowait, (place, text, finish))


def _usage(prompts: Sequence[np.ndarray], rows: Sequence[Row]) -> dict[str, int]:
    return usage_of(sum(len(ids) for ids in prompts), sum(row.num_tokens for row in rows))


def _check_followed(wanted: dict[str, Any]) -> None:
    for name, neutral in _NEUTRAL.items():
        value = wanted.get(name)
        if value is not None and not any(value == one and type(value) in (type(one), float) for one in neutral):
            raise UserError("an encoder-decoder model here does not follow it", field=name, expected="none")
