"""What the serving benchmarks share: adapters that answer differently, what each has to answer, and clients."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import requests
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from fettle.models.base import BUNDLED

COMPLETE = "/v1/completions"
PROMPT = [300, 20, 9, 41]
TOKENS = 24
_STD = 0.05


def make_adapters(folder: Path, count: int, rank: int = 8) -> list[Path]:
    """LoRA adapters over the bundled model whose matrices are random, so that each answers in its own way."""
    base = AutoModelForCausalLM.from_pretrained(BUNDLED["tiny"], dtype=torch.float32)
    config = LoraConfig(r=rank, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(base, config)
    model.peft_config["default"].base_model_name_or_path = str(BUNDLED["tiny"])
    found = []
    for number in range(count):
        torch.manual_seed(number)
        for name, weight in model.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(weight, std=_STD)
        found.append(folder / f"adapter-{number:03d}")
        model.save_pretrained(found[-1])
    return found


@torch.no_grad()
def answers_of(adapters: list[Path]) -> list[tuple[int, ...]]:
    """The greedy tokens after PROMPT with each adapter, by transformers and PEFT."""
    base = AutoModelForCausalLM.from_pretrained(BUNDLED["tiny"], dtype=torch.float32)
    model = PeftModel.from_pretrained(base, adapters[0], adapter_name="0")
    found = []
    for number, folder in enumerate(adapters):
        if number:
            model.load_adapter(folder, str(number))
            model.set_adapter(str(number))
        said = list(PROMPT)
        for _ in range(TOKENS):  # not `generate`, which leaves end tokens out where an answer has to be that long
            said.append(int(model(input_ids=torch.tensor([said])).logits[0, -1].argmax()))
        found.append(tuple(said[len(PROMPT) :]))
    return found


@dataclass(frozen=True)
class Seen:
    """One request: when it began (on the monotonic clock) and how long it took, what came back."""

    began: float
    seconds: float
    status: int
    version: str
    tokens: tuple[int, ...]
    is_stream: bool
    error: str = ""

    @property
    def is_whole(self) -> bool:
        return self.status == 200 and len(self.tokens) == TOKENS


def ask(session: requests.Session, url: str, model: str, is_stream: bool, timeout_s: float = 60) -> Seen:
    body = {"model": model, "prompt": PROMPT, "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True}
    body |= {"logprobs": 0, "return_tokens_as_token_ids": True, "stream": is_stream}
    began = time.monotonic()
    try:
        answer = session.post(url + COMPLETE, json=body, timeout=timeout_s)
        tokens = _tokens(answer) if answer.status_code == 200 else ()
        error = "" if answer.status_code == 200 else answer.text[:200]
        status, version = answer.status_code, answer.headers.get("x-fettle-version", "")
    except (requests.RequestException, ValueError, KeyError) as problem:
        tokens, error, status, version = (), f"{type(problem).__name__}: {problem}"[:200], 0, ""
    return Seen(began, time.monotonic() - began, status, version, tokens, is_stream, error)


def _tokens(answer: requests.Response) -> tuple[int, ...]:
    if answer.headers["content-type"].startswith("text/event-stream"):
        events = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
        told = [json.loads(event) for event in events if event != "[DONE]"]
        parts = [choice["logprobs"] for one in told for choice in one["choices"]]
    else:
        parts = [answer.json()["choices"][0]["logprobs"]]
    return tuple(int(token.removeprefix("token_id:")) for part in parts for token in part["tokens"])


@contextmanager
def clients(url: str, count: int, name_of: Callable[[int], str]) -> Iterator[list[Seen]]:
    """Half of them streaming, each asking one thing after the other until the block is left; the list fills."""
    seen: list[Seen] = []
    stop = threading.Event()

    def run(number: int) -> None:
        session, asked = requests.Session(), 0
        while not stop.is_set():
            seen.append(ask(session, url, name_of(number * 100_003 + asked), bool(number % 2)))
            asked += 1

    with ThreadPoolExecutor(count) as pool:
        running = [pool.submit(run, number) for number in range(count)]
        try:
            yield seen
        finally:
            stop.set()
            for one in running:
                one.result()


def titled(part: str) -> list[psutil.Process]:
    """Processes of this benchmark whose command line holds this."""
    found = []
    for one in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if part in " ".join(one.cmdline()):
                found.append(one)
    return found
