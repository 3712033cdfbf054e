"""vLLM's own OpenAI application over a concurrent engine: an ASGI app, to be put behind our gate."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from starlette.types import ASGIApp
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.entrypoints.launchers.app import build_app
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser

from fettle.engine.adapters import public_name
from fettle.engine.concurrent import ConcurrentEngine
from fettle.engine.fingerprint import fingerprint_each


async def openai_app(
    engine: ConcurrentEngine, model: Path, name: str, *, trust_template: bool = False, tool_parser: str | None = None
) -> ASGIApp:
    """vLLM's routes over `engine`; the base is called `name`, each adapter by its own name, as they are at the time of
    the request.

    tool_parser: vLLM's reader of the model's own way to call tools; without one a request can only name the tool to
    call. trust_template: take a chat template from a request's body. Whoever sets it has to keep users from sending
    one. The app has many more routes than we serve, loading adapters from any path among them: never expose it bare.
    """
    words = ["--model", str(model), "--served-model-name", name, "--disable-fastapi-docs", "--disable-log-stats"]
    words += ["--chat-template-content-format", "string"]  # as in training, whatever the template can take
    if tool_parser is not None:
        words += ["--enable-auto-tool-choice", "--tool-call-parser", tool_parser]
    if trust_template:
        words.append("--trust-request-chat-template")
    arguments = make_arg_parser(FlexibleArgumentParser()).parse_args(words)
    tasks = await engine.llm.get_supported_tasks()
    app = build_app(arguments, tasks, engine.llm.model_config)
    await init_app_state(engine.llm, app.state, arguments, tasks)
    # On a dead engine vLLM's error handler tells its own server to exit and fails without one; ours exits by itself.
    app.state.server = SimpleNamespace(should_exit=False)
    _name_adapters(app.state.openai_serving_models, engine)
    for serving in (app.state.openai_serving_chat, app.state.openai_serving_completion):
        if serving is not None:
            fingerprint_each(serving)
    return app


def _name_adapters(models: Any, engine: ConcurrentEngine) -> None:
    """Lets requests name adapters as users do, and answers repeat that name: vLLM knows them by name and version."""
    models.lora_requests = engine.adapters.current
    base = models.base_model_paths[0].name
    models.model_name = lambda version=None: base if version is None else public_name(version)
