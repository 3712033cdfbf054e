"""What the models of an endpoint do, and the routes by which each of them is asked."""

from __future__ import annotations

from typing import Any, Literal

from starlette.responses import JSONResponse

from fettle.serving.failures import NOT_FOUND, failure

Task = Literal["write", "classify", "reward", "embed"]
CHAT, COMPLETE = "/v1/chat/completions", "/v1/completions"
EMBED, CLASSIFY, SCORE, POOL = "/v1/embeddings", "/classify", "/score", "/pooling"
ROUTES: dict[Task, tuple[str, ...]] = {
    "write": (CHAT, COMPLETE),
    "classify": (CLASSIFY,),
    "reward": (SCORE, POOL),
    "embed": (EMBED,),
}
DOES: dict[Task, str] = {
    "write": "writes text",
    "classify": "classifies and writes no text",
    "reward": "scores answers and writes no text",
    "embed": "gives embeddings and writes no text",
}


def card_of(name: str, parent: str | None, created: int, max_model_len: int) -> dict[str, Any]:
    """What /v1/models says of one name. created: seconds since 1970."""
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "fettle",
        "parent": parent,
        "max_model_len": max_model_len,
    }


def elsewhere(task: Task, path: str) -> JSONResponse | None:
    """What to answer on a route that is another task's; None on one of its own."""
    if path in ROUTES[task]:
        return None
    routes = " or ".join(f"POST {route}" for route in ROUTES[task])
    # As OpenAI answers a model that is asked on another's route; a 400 would let names of no model into the metrics.
    return failure(404, f"{path} is not for this model, which {DOES[task]}: ask {routes}", kind=NOT_FOUND)
