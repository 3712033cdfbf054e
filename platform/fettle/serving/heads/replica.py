"""The Ray Serve deployment of a model that vLLM does not serve, in place of an engine's."""

from __future__ import annotations

import asyncio
import logging
import os

from ray import serve

from fettle.engine.env import EngineOptions, default_threads
from fettle.output import print_into
from fettle.serving.heads.answers import Answer, HeadAnswers
from fettle.serving.heads.served import ServedHead
from fettle.serving.replica import DEPLOYMENT, Answering, reason_of

logger = logging.getLogger(__name__)


@serve.deployment(**DEPLOYMENT)
class HeadReplica(Answering):
    """As Replica, which the ingress cannot tell it from; the work is done by transformers, in a thread."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, served: ServedHead, options: EngineOptions, log: str | None
    ) -> None:
        if log is not None:
            print_into(log)
        try:
            routes = await asyncio.to_thread(_loaded, served, options)
        except Exception as error:
            logger.exception("the model did not load")
            raise reason_of(error) from error
        self._answers = HeadAnswers(served, routes)


def _loaded(served: ServedHead, options: EngineOptions) -> dict[str, Answer]:
    # The weights lie in a folder by now; a name that is none must fail and not be looked for on the hub.
    os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    # Imported here, not above: the driver imports this module to deploy it and has no use for them.
    import torch

    from fettle.serving.heads import reading, writing

    torch.set_num_threads(options.threads or default_threads())  # Ray's own setting is one, for one reserved CPU
    routes_of = writing.routes_of if served.task == "write" else reading.routes_of
    return routes_of(served, options)
