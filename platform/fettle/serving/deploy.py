"""What Ray Serve builds from `serve/config.yaml`: one model or several, and adapters over them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from ray.serve import Application

from fettle.engine.env import Dtype, EngineOptions
from fettle.errors import UserError, did_you_mean
from fettle.serving.app import application, to_serve
from fettle.serving.followed import Followed
from fettle.serving.resolve import PLACES
from fettle.serving.served import Served


class ModelArguments(BaseModel):
    """One base model, with an engine of its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    """The bundled `tiny`, the folder of a model or an adapter (an artifact's too), or a hub id."""
    name: str | None = None
    """What requests call it; by default its own name."""
    adapters: dict[str, str] = {}
    """Name to folder of further adapters over the same base."""
    registry: str | None = None
    """A registry's folder, whose published adapters are served too; on a file system that all nodes see. Where it has a
    full model of the name `model`, that is served, whatever version production is."""
    also: tuple[str, ...] = ()
    """Aliases of a model in a registry whose versions get engines beside production's: for canaries."""
    deployment: dict[str, Any] = {}
    """Ray Serve's options of the engines of a model in a registry (num_replicas, autoscaling_config, …); those of other
    models are under `deployments`."""
    places: int = PLACES
    """Published adapters that a replica holds at a time."""
    tool_parser: str | None = None
    """How the model calls tools, by vLLM's name (hermes, llama3_json, mistral, …); without it requests name the
    tool."""
    dtype: Dtype = "auto"
    """`auto` is float32 on a CPU (bfloat16 over quantised weights), the weights' own type on a GPU."""
    max_model_len: int | None = None
    """Tokens of prompt and answer together; by default the model's positions."""


class Arguments(ModelArguments):
    """The `args` of serve/config.yaml, or the `key=value` words of `serve run`: the keys of one model, or `models`."""

    model: str | None = None  # type: ignore[assignment]
    """See ModelArguments."""
    models: tuple[ModelArguments, ...] = ()
    """Several, each with these keys and names of its own; their engines' deployments are called model-NAME."""
    keys: str | None = None
    """A file of API keys (`fettle keys`); without one everybody who reaches the address is answered."""


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
    return application([_resolved(one) for one in _models(arguments)], arguments.keys)


def _models(arguments: Arguments) -> tuple[ModelArguments, ...]:
    """Raises UserError for none, for one beside several, and for several with one name or one registry."""
    if arguments.model is not None and not arguments.models:
        return (arguments,)
    if not arguments.models or arguments.model is not None:
        raise UserError("this key is missing", field="args.model", expected="model, or models, and not both")
    registries = [one.registry for one in arguments.models if one.registry is not None]
    if len(set(registries)) < len(registries):
        raise UserError(
            "two models have one registry", field="args.models", fix="give each the registry of adapters over it"
        )
    return arguments.models


def _resolved(one: ModelArguments) -> tuple[Served | Followed, EngineOptions]:
    return to_serve(
        one.model,
        EngineOptions(dtype=one.dtype, max_model_len=one.max_model_len),
        name=one.name,
        adapters=one.adapters,
        registry=one.registry,
        also=one.also,
        deployment=one.deployment,
        places=one.places,
        tool_parser=one.tool_parser,
    )
