"""Small stages of reinforcement learning of the tiny model, whose reward is for short answers, and what they tell."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from fettle.data.sources import open_source
from fettle.models.base import BUNDLED, load_tokenizer
from fettle.pipeline.prepare import end_ids
from fettle.recipe.adapter import FULL, AdapterSpec
from fettle.recipe.data import DataSpec
from fettle.recipe.rl import RlStage
from fettle.rl.collect import collected
from fettle.rl.job import RlJob
from fettle.rl.recorder import IterationRow, read_rows

LORA = AdapterSpec(kind="lora", r=4, alpha=8)
PROMPTS, SAMPLES = 4, 4
# A letter costs the same in every answer, so that the reward never depends on who else was asked.
REWARD = """
def short(prompts, completions):
    return [-len(said[0]["content"]) / 20 for said in completions]
"""
_TIMED = ("seconds", "phases", "tokens_per_second")

MakeJob = Callable[..., RlJob]


def make_rl_jobs(root: Path, folder: Path) -> MakeJob:
    """`make(name, algorithm="grpo", adapter=FULL, …)`: stages below `folder` that differ in one thing."""
    recipes = root / "recipes"
    prompts = open_source(DataSpec(path="northline/prompts.jsonl"), lambda path: recipes / path)
    tokenizer = load_tokenizer(BUNDLED["tiny"])
    (folder / "rewards.py").write_text(REWARD, encoding="utf-8")
    (folder / "epoch").write_text("test")

    def make(
        name: str,
        *,
        algorithm: str | dict[str, Any] = "grpo",
        adapter: AdapterSpec = FULL,
        rollout: dict[str, Any] | None = None,
        from_adapter: Path | None = None,
        models: tuple[tuple[str, Path], ...] = (),
        **keys: Any,
    ) -> RlJob:
        sampled = {"prompts": PROMPTS, "samples_per_prompt": SAMPLES, "max_new_tokens": 16} | (rollout or {})
        plain: dict[str, Any] = {
            "iterations": 3,
            "rewards": ({"function": "rewards.py:short"},),
            "heldout": {"fraction": 0.02, "max": 4},
            "lr": 3e-4,
            "checkpoint": {"every": 100},
        }
        told = {"name": name, "kind": "rl", "algorithm": algorithm, "prompts": ("prompts.jsonl",), "rollout": sampled}
        return RlJob(
            name=name,
            fingerprint=name,
            spec=RlStage.model_validate(plain | told | keys),
            adapter=adapter,
            seed=3,
            base=BUNDLED["tiny"],
            from_adapter=from_adapter,
            max_length=96,
            precision="fp32",
            folder=folder / name,
            artifact=folder / f"{name}-artifact",
            recipe="",
            data=(),
            end_ids=end_ids(tokenizer),
            pad_id=int(tokenizer.pad_token_id),
            prompts=(prompts,),
            heldout_prompts=None,
            models=models,
            critic=None,
            recipe_folder=folder,
        )

    return make


def rows_of(job: RlJob) -> list[IterationRow]:
    """What the stage's recorder holds."""
    return read_rows(job.iterations_file)


def timeless(job: RlJob) -> list[dict[str, Any]]:
    """The recorder's rows without what a clock says."""
    return [{key: value for key, value in asdict(row).items() if key not in _TIMED} for row in rows_of(job)]


def drawn(job: RlJob, iteration: int) -> list[tuple[int, int]]:
    """(prompt, sample) of each of an iteration's rollouts."""
    return [(one.rollout.prompt, one.rollout.sample) for one in collected(job, iteration).rollouts]


class Service:
    """A reward service on this machine, in a thread; a context. statuses: what the next requests are answered with,
    500 once there is none left."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        service = self

        class Answers(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status = service.statuses.pop(0) if service.statuses else 500
                scores = [-len(said[0]["content"]) / 20 for said in asked["completions"]]
                told = json.dumps({"scores": scores}).encode() if status == 200 else b"down"
                self.send_response(status)
                self.send_header("Content-Length", str(len(told)))
                self.end_headers()
                self.wfile.write(told)

            def log_message(self, format: str, *arguments: Any) -> None:
                """Nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"

    def __enter__(self) -> Service:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._server.shutdown()
        self._server.server_close()
