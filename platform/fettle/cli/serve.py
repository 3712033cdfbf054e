"""`fettle serve`: a model behind an OpenAI-compatible endpoint, until Ctrl-C."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fettle.errors import Interrupted, UserError

if TYPE_CHECKING:
    from fettle.serving.app import Endpoint


AdaptersOption = Annotated[
    list[str] | None, typer.Option(metavar="NAME=FOLDER", help="One more adapter over the same base; repeatable.")
]
DtypeOption = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16; auto is float32 on a CPU.")]
LengthOption = Annotated[
    int | None, typer.Option(help="Tokens of prompt and answer together; by default the model's positions.")
]


def serve_command(
    model: Annotated[
        str,
        typer.Argument(
            help="The bundled `tiny`, the folder of a model or an adapter, a hub id, or the registry's name of a model."
        ),
    ],
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
    host: Annotated[str, typer.Option(help="Address; one that other machines reach wants --keys.")] = "127.0.0.1",
    name: Annotated[str | None, typer.Option(help="What requests call MODEL; by default its own name.")] = None,
    adapter: AdaptersOption = None,
    registry: Annotated[
        Path | None,
        typer.Option(envvar="FETTLE_REGISTRY", help="A registry's folder, whose published adapters are served too."),
    ] = None,
    also: Annotated[
        list[str] | None,
        typer.Option(metavar="ALIAS", help="Engines for this alias of a model in the registry too; repeatable."),
    ] = None,
    places: Annotated[
        int, typer.Option(help="Published adapters that are held at a time; others are loaded when asked for.")
    ] = 32,
    replicas: Annotated[
        int | None, typer.Option(min=1, help="Engines, so that the endpoint outlives one; by default 2 where they fit.")
    ] = None,
    tool_parser: Annotated[
        str | None, typer.Option(help="How the model calls tools, by vLLM's name: hermes, llama3_json, mistral, …")
    ] = None,
    keys: Annotated[
        Path | None, typer.Option(envvar="FETTLE_KEYS", help="A file of API keys (`fettle keys`); else any is taken.")
    ] = None,
    dtype: DtypeOption = "auto",
    max_model_len: LengthOption = None,
) -> None:
    """Serve a model over HTTP, in OpenAI's format, on Ray Serve: with vLLM, or what does not write text by itself
    (classifiers, reward models, encoders) and encoder-decoder models with transformers."""
    from fettle.engine.env import EngineOptions
    from fettle.signals import interruptible

    adapters = adapters_of(adapter or [])
    options = EngineOptions(dtype=dtype, max_model_len=max_model_len)  # type: ignore[arg-type]  # checked by itself
    began, endpoint = time.monotonic(), None
    with interruptible():
        try:
            from fettle.serving.app import serve

            def say(text: str) -> None:
                typer.echo(f"[{time.monotonic() - began:5.1f} s] {text}")

            with serve(
                model,
                port=port,
                host=host,
                name=name,
                adapters=adapters,
                registry=registry,
                also=also or [],
                places=places,
                replicas=replicas,
                tool_parser=tool_parser,
                keys=keys,
                options=options,
                say=say,
            ) as endpoint:
                say("ready")
                typer.echo(_how_to_use(endpoint))
                while True:
                    time.sleep(3600)
        except (KeyboardInterrupt, Interrupted):
            if endpoint is None:
                raise Interrupted("stopped before it was ready") from None
            typer.echo("stopped")


def adapters_of(given: list[str]) -> dict[str, Path]:
    """Name to folder of each `NAME=FOLDER`. Raises UserError for anything else, or a name given twice."""
    found: dict[str, Path] = {}
    for one in given:
        name, equals, folder = one.partition("=")
        if not (name and equals and folder):
            raise UserError(
                f"'{one}' is not NAME=FOLDER", field="--adapter", expected="as in --adapter support=runs/a/sft"
            )
        if name in found:
            raise UserError(f"two adapters named '{name}'", field="--adapter", fix="give one of them another name")
        found[name] = Path(folder)
    return found


def _how_to_use(endpoint: Endpoint) -> str:
    route, body = endpoint.served.example
    return (
        f"\n  {endpoint.url}/v1   models: {', '.join(endpoint.names)}\n\n"
        f"  curl -s {endpoint.url}{route} -H 'Content-Type: application/json' \\\n    -d '{json.dumps(body)}'\n\n"
        "Ctrl-C stops it."
    )
