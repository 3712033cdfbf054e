"""fettle's endpoint beside vLLM's own server: latency at one client, throughput at many, in one run.

    python benchmarks/serve.py [--model FOLDER ...] [--seconds S]

By default of the bundled model, whose tokens cost next to nothing, and of one with random weights whose tokens cost the
engine 20 ms and more.

Both have one engine with the same settings (float32, one thread, no LoRA layers), are up at the same time, and idle
while the other one is measured, in turns. Clients send greedy requests of 32 tokens over connections that stay open.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import requests
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from fettle.cluster import ray_session
from fettle.engine.env import EngineOptions, engine_arguments, prepare_process
from fettle.models.base import BUNDLED, resolve_base
from fettle.serving.app import serve
from fettle.serving.port import free_port
from house_format import row, write_results

LATENCY_MS, THROUGHPUT, FIRST = 10.0, 0.9, 1.5
_TOKENS, _ROUNDS, _CLIENTS = 32, 3, (1, 8, 32)
_SERVER = "vllm.entrypoints.openai.api_server"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", nargs="*", default=["tiny", "random-100m"])
    parser.add_argument("--seconds", type=float, default=8.0, help="of each of three rounds, for each side")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for model in options.model:
            path = large(Path(folder)) if model == "random-100m" else resolve_base(model, field="--model")
            rows += measured(path, Path(model).name, options.seconds)
    for one in rows:
        print(f"{one['what']:<52} {one['fettle']:>9.1f} {one['peer_value']:>9.1f} {one['unit']:<9} {one['ratio']:.2f}")
    write_results("serve", rows, "one engine thread, clients on the same cores")


def large(folder: Path) -> Path:
    """A Llama of 100 million parameters with the bundled model's tokenizer."""
    shape: dict[str, Any] = {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12}
    heads = {"num_attention_heads": 12, "num_key_value_heads": 12, "max_position_embeddings": 512}
    tokenizer = AutoTokenizer.from_pretrained(BUNDLED["tiny"])
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **shape, **heads)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def measured(model: Path, name: str, seconds: float) -> list[dict[str, Any]]:
    options = EngineOptions(dtype="float32", max_num_seqs=64, max_model_len=256, threads=1)
    rows = []
    more: dict[str, Any] = {"name": "served", "replicas": 1, "options": options}
    with (
        ray_session(),
        vllm_server(model, options) as theirs,
        serve(model, port=free_port(), **more, say=print) as at,
    ):
        sides = {"fettle": at.url, "vLLM": theirs}
        first = {side: 1000 * ask(requests.Session(), url) for side, url in sides.items()}
        for url in sides.values():
            run(url, 2, 3.0)
        for clients in _CLIENTS:
            found: dict[str, list[list[float]]] = {side: [] for side in sides}
            for _ in range(_ROUNDS):
                for side, url in sides.items():
                    found[side].append(run(url, clients, seconds))
            rows += compared(name, clients, seconds, found)
            if clients == 1:
                rows.append(beside_the_median(name, first, found))
    return rows


def beside_the_median(name: str, first: dict[str, float], found: dict[str, list[list[float]]]) -> dict[str, Any]:
    """The first request after the endpoint was ready, in medians of one client's. first: ms."""
    times = {side: first[side] / (1000 * statistics.median(chain.from_iterable(told))) for side, told in found.items()}
    what = f"{name}: the first request after ready (wanted: at most {FIRST})"
    return row(
        what, "medians", times["fettle"], "vLLM's server", times["vLLM"], times["vLLM"] / times["fettle"], limit=False
    )


def compared(name: str, clients: int, seconds: float, found: dict[str, list[list[float]]]) -> list[dict[str, Any]]:
    latency = {side: 1000 * statistics.median(chain.from_iterable(rounds)) for side, rounds in found.items()}
    rate = {side: statistics.median(len(one) for one in rounds) / seconds * _TOKENS for side, rounds in found.items()}
    of = f"{name}, {clients} client{'s' * (clients > 1)}"
    token = latency["vLLM"] / _TOKENS
    print(f"  {of}: {latency['fettle'] - latency['vLLM']:+.1f} ms at the median; a token takes {token:.1f} ms")
    ratio = latency["vLLM"] / latency["fettle"]
    return [
        row(
            f"{of}: median of a request", "ms", latency["fettle"], "vLLM's server", latency["vLLM"], ratio, limit=False
        ),
        row(
            f"{of}: tokens",
            "a second",
            rate["fettle"],
            "vLLM's server",
            rate["vLLM"],
            rate["fettle"] / rate["vLLM"],
            limit=False,
        ),
    ]


def ask(session: requests.Session, url: str) -> float:
    """Seconds of one request."""
    body = {"model": "served", "prompt": [5, 6, 7, 8], "max_tokens": _TOKENS, "temperature": 0, "ignore_eos": True}
    began = time.monotonic()
    session.post(f"{url}/v1/completions", json=body, timeout=300).raise_for_status()
    return time.monotonic() - began


def run(url: str, clients: int, seconds: float) -> list[float]:
    """Seconds of each request that ended in that time."""
    stop = threading.Event()

    def client(_: int) -> list[float]:
        session, found = requests.Session(), []
        while not stop.is_set():
            found.append(ask(session, url))
        return found

    with ThreadPoolExecutor(clients) as pool:
        running = [pool.submit(client, number) for number in range(clients)]
        time.sleep(seconds)
        stop.set()
        return [one for each in running for one in each.result()]


@contextmanager
def vllm_server(model: Path, options: EngineOptions, adapters: Sequence[Path] = ()) -> Iterator[str]:
    """vLLM's own server, with what fettle gives its engine; adapters by their folders' names."""
    port = free_port()
    arguments = engine_arguments(model, options)
    words = ["--host", "127.0.0.1", "--port", str(port), "--served-model-name", "served", "--disable-log-stats"]
    words += ["--disable-uvicorn-access-log", "--enforce-eager", "--no-enable-chunked-prefill"]
    for name in ("model", "dtype", "max_num_seqs", "max_model_len", "max_num_batched_tokens", "kv_cache_memory_bytes"):
        words += [f"--{name.replace('_', '-')}", str(arguments[name])]
    if adapters:
        words += ["--enable-lora", "--lora-modules", *(f"{folder.name}={folder}" for folder in adapters)]
        for name in ("max_loras", "max_lora_rank", "max_cpu_loras"):
            words += [f"--{name.replace('_', '-')}", str(arguments[name])]
    environment = dict(os.environ)
    prepare_process(options)
    told, _ = dict(os.environ), os.environ.clear()
    os.environ.update(environment)
    told["VLLM_ENABLE_V1_MULTIPROCESSING"] = "1"  # as `vllm serve` runs: its engine in a process of its own
    process = subprocess.Popen(
        [sys.executable, "-m", _SERVER, *words], env=told, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        until = time.monotonic() + 300
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


if __name__ == "__main__":
    main()
