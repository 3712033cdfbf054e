"""fettle's endpoint beside vLLM's own server and Ray Serve LLM: latency at one client, throughput at many, in one run.

    python benchmarks/serve.py [--model FOLDER ...] [--seconds S]

By default of the bundled model, whose tokens cost next to nothing, and of one with random weights whose tokens cost the
engine 20 ms and more.

All have one engine with the same settings (float32, one thread, no LoRA layers), are up at the same time, and idle
while another one is measured, in turns. Clients send greedy requests of 32 tokens over connections that stay open.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

import requests
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from fettle.cluster import ray_session
from fettle.engine.env import EngineOptions
from fettle.models.base import BUNDLED, resolve_base
from fettle.serving.app import serve
from fettle.serving.front import guard_proxies
from fettle.serving.port import free_port
from house_format import row, write_results
from serve_sides import ray_serve_llm, vllm_server

FIRST = 1.5
_TOKENS, _ROUNDS, _CLIENTS = 32, 3, (1, 8, 32)


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
        told = f"{one['what']:<64} {one['fettle']:>9.1f} {one['peer']:<14} {one['peer_value']:>9.1f} {one['unit']:<9}"
        print(f"{told} {one['ratio']:.2f}")
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
    guard_proxies()  # as `fettle serve`, before there is a Ray
    with (
        ray_session(num_cpus=8),  # so many to hand out: Ray Serve LLM wants two for itself
        vllm_server(model, options) as theirs,
        serve(model, port=free_port(), **more, say=print) as at,
        ray_serve_llm(model, options, at.url) as rays,
    ):
        sides = {"fettle": at.url, "vLLM's server": theirs, "Ray Serve LLM": rays}
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
                rows.extend(beside_the_median(name, first, found))
    return rows


def beside_the_median(name: str, first: dict[str, float], found: dict[str, list[list[float]]]) -> list[dict[str, Any]]:
    """The first request after the endpoint was ready, in medians of one client's. first: ms."""
    times = {side: first[side] / (1000 * statistics.median(chain.from_iterable(told))) for side, told in found.items()}
    what, ours = f"{name}: the first request after ready (wanted: at most {FIRST})", times.pop("fettle")
    return [row(what, "medians", ours, side, its, its / ours, limit=False) for side, its in times.items()]


def compared(name: str, clients: int, seconds: float, found: dict[str, list[list[float]]]) -> list[dict[str, Any]]:
    latency = {side: 1000 * statistics.median(chain.from_iterable(rounds)) for side, rounds in found.items()}
    late = {side: 1000 * p99([*chain.from_iterable(rounds)]) for side, rounds in found.items()}
    rate = {side: statistics.median(len(one) for one in rounds) / seconds * _TOKENS for side, rounds in found.items()}
    of = f"{name}, {clients} client{'s' * (clients > 1)}"
    rows = []
    for side in [side for side in found if side != "fettle"]:
        for what, unit, told in (("median", "ms", latency), ("99th percentile", "ms", late)):
            ours, its = told["fettle"], told[side]
            rows.append(row(f"{of}: {what} of a request", unit, ours, side, its, its / ours, limit=False))
        ours, its = rate["fettle"], rate[side]
        rows.append(row(f"{of}: tokens", "a second", ours, side, its, ours / its, limit=False))
    return rows


def p99(seconds: list[float]) -> float:
    """Of which one in a hundred took longer."""
    return sorted(seconds)[min(len(seconds) - 1, int(0.99 * len(seconds)))]


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


if __name__ == "__main__":
    main()
