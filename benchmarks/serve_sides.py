"""What the endpoint is beside: vLLM's own server and Ray Serve LLM, with what fettle gives its engine."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import requests

from fettle.engine.env import EngineOptions, engine_arguments, prepare_process
from fettle.serving.port import free_port

SETTINGS = ("dtype", "max_num_seqs", "max_model_len", "max_num_batched_tokens", "kv_cache_memory_bytes")
_SERVER = "vllm.entrypoints.openai.api_server"
_START_S = 600


@contextmanager
def vllm_server(model: Path, options: EngineOptions, adapters: Sequence[Path] = ()) -> Iterator[str]:
    """vLLM's own server, with what fettle gives its engine; adapters by their folders' names."""
    port = free_port()
    arguments = engine_arguments(model, options)
    words = ["--host", "127.0.0.1", "--port", str(port), "--served-model-name", "served", "--disable-log-stats"]
    words += ["--disable-uvicorn-access-log", "--enforce-eager", "--no-enable-chunked-prefill"]
    for name in ("model", *SETTINGS):
        words += [f"--{name.replace('_', '-')}", str(arguments[name])]
    if adapters:
        words += ["--enable-lora", "--lora-modules", *(f"{folder.name}={folder}" for folder in adapters)]
        for name in ("max_loras", "max_lora_rank", "max_cpu_loras"):
            words += [f"--{name.replace('_', '-')}", str(arguments[name])]
    told = os.environ | _environment(options) | {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", _SERVER, *words], env=told, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        until = time.monotonic() + _START_S
        while True:
            if process.poll() is not None or time.monotonic() > until:
                raise SystemExit("vLLM's server did not start: run it by hand")
            try:
                if requests.get(f"http://127.0.0.1:{port}/health", timeout=5).ok:
                    break
            except requests.RequestException:
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def ray_serve_llm(model: Path, options: EngineOptions, endpoint: str) -> Iterator[str]:
    """Ray Serve LLM on the Ray Serve that has fettle's endpoint, whose proxy it then shares."""
    from ray import serve
    from ray.serve.llm import LLMConfig, build_openai_app

    arguments = engine_arguments(model, options)
    config = LLMConfig(
        model_loading_config={"model_id": "served", "model_source": str(model)},
        accelerator_type=None,
        placement_group_config={"bundles": [{"CPU": 1}]},
        engine_kwargs={name: arguments[name] for name in SETTINGS}
        | {"enforce_eager": True, "enable_chunked_prefill": False},
        runtime_env={"env_vars": _environment(options)},
        deployment_config={"num_replicas": 1, "max_ongoing_requests": 1000},
        log_engine_metrics=False,
    )
    ingress = {"num_replicas": 1, "autoscaling_config": None, "max_ongoing_requests": 1000}
    app = build_openai_app({"llm_configs": [config], "ingress_deployment_config": ingress})
    serve.run(app, name="ray-serve-llm", route_prefix="/ray-serve-llm", blocking=False)
    try:
        yield f"{endpoint}/ray-serve-llm"
    finally:
        serve.delete("ray-serve-llm")


def _environment(options: EngineOptions) -> dict[str, str]:
    """What fettle sets for its engine, but an engine in a process of its own, as `vllm serve` has it."""
    kept = dict(os.environ)
    prepare_process(options)
    told = {name: value for name, value in os.environ.items() if kept.get(name) != value}
    os.environ.clear()
    os.environ.update(kept)
    return told | {"VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
