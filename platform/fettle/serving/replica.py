"""The Ray Serve deployment of an engine, which answers what the ingress asks through vLLM's OpenAI application."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import re
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

from ray import serve

from fettle.data.neutral import Neutral
from fettle.engine.core import CoreProcess
from fettle.engine.env import EngineOptions, device, prepare_process
from fettle.errors import FettleError, UserError
from fettle.models.base import load_tokenizer
from fettle.output import print_into
from fettle.registry.folder import FolderRegistry
from fettle.serving.answers import Answers
from fettle.serving.metrics import AdapterMetrics
from fettle.serving.question import Part, Question, pieces
from fettle.serving.residency import Residency
from fettle.serving.resolve import ServedAdapter, ServedModel, admitted
from fettle.serving.weights import check_model

_WATCH_S = 0.5
_REFRESH_S = 0.5
_REASON_CHARS = 400
# vLLM queues by itself and better; this only keeps health checks from waiting behind requests.
_MAX_ONGOING = 1000

logger = logging.getLogger(__name__)


DEPLOYMENT: dict[str, Any] = {
    "name": "model",
    "max_ongoing_requests": _MAX_ONGOING,
    "health_check_period_s": 2,
    "health_check_timeout_s": 30,
    "graceful_shutdown_wait_loop_s": 0.1,
    "graceful_shutdown_timeout_s": 10,
    "ray_actor_options": {"num_cpus": 1, "num_gpus": 1 if device() == "gpu" else 0},
}
"""Of whatever answers behind the ingress."""


class Answering:
    """What the ingress asks of a replica. _answers: Answers, or HeadAnswers."""

    _answers: Any

    async def answer(self, question: Question) -> AsyncIterator[Part]:
        """See `Answers.answer`, `HeadAnswers.answer`."""
        async with aclosing(self._answers.answer(question)) as parts:
            async for part in parts:
                for piece in pieces(part):
                    yield piece

    async def cards(self) -> list[dict[str, Any]]:
        """What can be asked for, as /v1/models lists it."""
        found: list[dict[str, Any]] = self._answers.cards()
        return found


@serve.deployment(**DEPLOYMENT)
class Replica(Answering):
    """Counts as started once it is warm, so that it is asked nothing before, and a rolling update takes the one before
    it away no earlier. log: file for everything this process prints. Raises UserError or FettleError with the reason
    why it never will answer."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, served: ServedModel, options: EngineOptions, log: str | None
    ) -> None:
        if log is not None:
            print_into(log)
        self._watching: asyncio.Task[None] | None = None
        self._refreshing: asyncio.Task[None] | None = None
        await self._load(served, options)

    async def _load(self, served: ServedModel, options: EngineOptions) -> None:
        try:
            engine = await _start(served, options)
            # Imported here, not above: the driver imports this module to deploy it and has no use for vLLM's 10 s.
            from fettle.engine.openai_app import openai_app

            trust = served.registry is not None or any("chat_template" in one for one in served.defaults.values())
            app = await openai_app(
                engine, served.folder, served.name, trust_template=trust, tool_parser=served.tool_parser
            )
            neutral = await asyncio.to_thread(_neutral, served)
            published = await _published(served, options, engine)
            await engine.warm_up()
        except Exception as error:
            logger.exception("the engine did not start")
            raise reason_of(error) from error
        gc.collect()
        gc.freeze()  # the collector need not walk vLLM's half a million objects again at every turn
        self._answers = Answers(
            app,
            served.names,
            served.defaults,
            neutral,
            engine.llm.model_config.max_model_len,
            published,
            lambda: engine.is_dead,
            served.digest,
        )
        self._watching = asyncio.create_task(self._watch(engine))
        if published is not None:
            self._refreshing = asyncio.create_task(_keep_up(published))

    async def _watch(self, engine: Any) -> None:
        """Ends the process with its engine. Serve would need three failed health checks (26 s of errors, measured),
        while it replaces a process that is gone at once."""
        while not engine.is_dead:
            await asyncio.sleep(_WATCH_S)
        logger.error("the engine died; the replica ends so that Ray Serve starts another")
        await asyncio.sleep(_WATCH_S)  # what is streamed gets its error first
        os._exit(1)


def _neutral(served: ServedModel) -> dict[str, Neutral]:
    """By name, what breaks the names of control tokens in the messages of its chats, as in its training."""
    from fettle.data.chat import neutral_of  # imports transformers

    templates = {name: served.defaults.get(name, {}).get("chat_template") for name in served.names}
    found = {one: neutral_of(load_tokenizer(served.folder, one)) for one in dict.fromkeys(templates.values())}
    return {name: found[template] for name, template in templates.items()}


async def _start(served: ServedModel, options: EngineOptions) -> Any:
    prepare_process(options)
    core = CoreProcess(served.folder, options) if device() == "cpu" else None
    # In a thread: the import takes some 10 s, and /health is to be answered meanwhile.
    await asyncio.to_thread(_import_engine)
    from fettle.engine.concurrent import start_concurrent_engine

    engine = await start_concurrent_engine(served.folder, options, core)
    for adapter in served.adapters:
        await engine.adapters.put(adapter.name, adapter.folder)
    return engine


async def _published(served: ServedModel, options: EngineOptions, engine: Any) -> Residency | None:
    """What the registry has, as far as there is room, loaded."""
    if served.registry is None:
        return None
    from fettle.data.chat import neutral_of  # imports transformers

    shapes = await asyncio.to_thread(check_model, served.folder)

    def admit(name: str, folder: Path) -> ServedAdapter:
        adapter = admitted(name, folder, served.folder, shapes)
        if adapter.rank > options.max_lora_rank:
            raise UserError(f"its rank is {adapter.rank}, and this endpoint takes {options.max_lora_rank} at most")
        return adapter

    def neutral(template: str | None) -> Neutral:
        return neutral_of(load_tokenizer(served.folder, template))

    published = Residency(
        FolderRegistry(served.registry), engine.adapters, admit, neutral, most=served.places, metrics=AdapterMetrics()
    )
    await _caught_up(published)
    await published.settled()
    return published


async def _keep_up(published: Residency) -> None:
    """Looks at the registry again and again; what is wrong there for a while changes nothing here."""
    while True:
        await asyncio.sleep(_REFRESH_S)
        await _caught_up(published)


async def _caught_up(published: Residency) -> None:
    try:
        await published.refresh()
    except Exception as error:  # of a file system that is away, or of files that make no sense
        logger.error("the registry cannot be read: %s: %s", type(error).__name__, error)


def _import_engine() -> None:
    import fettle.engine.openai_app  # noqa: F401


def reason_in(told: str) -> str | None:
    """What our own code said in a replica; Ray Serve hands it on in the text of a traceback."""
    said = re.findall(r"fettle\.errors\.\w+: (.*)", told)
    return said[-1].strip() if said else None


def reason_of(error: Exception) -> FettleError:
    """What whoever deployed a replica is told of why it did not start: a user's mistake as it is, of anything else its
    type and first telling line. pydantic's first line only counts its errors."""
    if isinstance(error, UserError):
        return error
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if len(lines) > 1 and "validation error" in lines[0]:
        lines = lines[1:]
    return FettleError(f"{type(error).__name__}: {lines[0][:_REASON_CHARS] if lines else 'no message'}")
