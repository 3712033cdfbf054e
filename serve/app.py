"""What `serve run` and `serve deploy` put up: one model and adapters over it, on the cluster they are pointed at."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict
from ray.serve import Application

from fettle.engine.env import Dtype, EngineOptions
from fettle.serving.app import build


class Arguments(BaseModel):
    """The `args` of serve/config.yaml, or `key=value` words of `serve run`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    """The bundled `tiny`, the folder of a model or an adapter (an artifact's too), or a hub id."""
    name: str | None = None
    """What requests call it; by default its own name."""
    adapters: dict[str, str] = {}
    """Name to folder of further adapters over the same base."""
    dtype: Dtype = "auto"
    """`auto` is float32 on a CPU, the weights' own type on a GPU."""
    max_model_len: int | None = None
    """Tokens of prompt and answer together; by default the model's positions."""


def app(arguments: Arguments) -> Application:
    """The application; a replica counts as started, and takes an older one's place, only once it is warm."""
    options = EngineOptions(dtype=arguments.dtype, max_model_len=arguments.max_model_len)
    return build(arguments.model, name=arguments.name, adapters=arguments.adapters, options=options)
