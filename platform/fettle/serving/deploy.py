"""What Ray Serve builds from `serve/config.yaml`: one model and adapters over it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from ray.serve import Application

from fettle.engine.env import Dtype, EngineOptions
from fettle.errors import UserError, did_you_mean
from fettle.serving.app import build
from fettle.serving.resolve import PLACES


class Arguments(BaseModel):
    """The `args` of serve/config.yaml, or the `key=value` words of `serve run`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    """The bundled `tiny`, the folder of a model or an adapter (an artifact's too), or a hub id."""
    name: str | None = None
    """What requests call it; by default its own name."""
    adapters: dict[str, str] = {}
    """Name to folder of further adapters over the same base."""
    registry: str | None = None
    """A registry's folder, whose published adapters are served too; on a file system that all nodes see."""
    places: int = PLACES
    """Published adapters that a replica holds at a time."""
    keys: str | None = None
    """A file of API keys (`fettle keys`); without one everybody who reaches the address is answered."""
    dtype: Dtype = "auto"
    """`auto` is float32 on a CPU (bfloat16 over quantised weights), the weights' own type on a GPU."""
    max_model_len: int | None = None
    """Tokens of prompt and answer together; by default the model's positions."""


def app(args: dict[str, Any]) -> Application:
    """The application; a replica counts as started, and takes an older one's place, only once it is warm.

    Raises UserError for arguments that are none of `Arguments`, or a model that cannot be served.
    """
    try:
        arguments = Arguments.model_validate(args)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        near = did_you_mean(name, Arguments.model_fields) if first["type"] == "extra_forbidden" else ""
        raise UserError(
            f"{first['msg']}{near}", field=f"args.{name}", expected=", ".join(Arguments.model_fields)
        ) from None
    options = EngineOptions(dtype=arguments.dtype, max_model_len=arguments.max_model_len)
    return build(
        arguments.model,
        name=arguments.name,
        adapters=arguments.adapters,
        registry=arguments.registry,
        places=arguments.places,
        keys=arguments.keys,
        options=options,
    )
