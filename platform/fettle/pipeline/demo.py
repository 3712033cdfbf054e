"""The main job, shown: train the demo's recipe, serve the result, ask the endpoint before and after."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import requests
from rich.console import Console
from rich.table import Table

from fettle.cluster import ray_session
from fettle.data.coder import Coder, end_ids
from fettle.data.record import Message, Prompt, Record
from fettle.errors import FettleError, UserError
from fettle.models.base import BUNDLED, load_tokenizer
from fettle.pipeline.console import duration, quiet
from fettle.pipeline.runner import run
from fettle.recipe import load_recipe
from fettle.serving.port import check_port, free_port
from fettle.serving.soon import serve_soon
from fettle.signals import interruptible

_REPOSITORY = Path(__file__).parents[3]
_MOST_TOKENS = 48


def demo(out: str | Path = "runs/demo", port: int | None = None) -> None:
    """Trains recipes/demo.yaml and prints the answers of its base and of its result side by side.

    port: of the endpoint, by default a free one. Raises UserError, before anything is started, outside a clone of the
    repository and for a port in use.
    """
    recipe, asked = (
        _REPOSITORY / "recipes" / "demo.yaml",
        _REPOSITORY / "recipes" / "northline" / "demo_questions.jsonl",
    )
    if not recipe.is_file():
        raise UserError(
            "the demo's recipe and data are not here", file=recipe, fix="run it in a clone of the repository"
        )
    if port is not None:
        check_port("127.0.0.1", port)
    console, began, name = Console(highlight=False), time.monotonic(), load_recipe(recipe).name
    console.print("[bold]1  Train[/]  a tiny model reads a night-train company's papers and conversations")
    with interruptible("; the same command goes on from here"), ray_session():
        log = Path(out).resolve() / "logs" / "serve.log"
        with serve_soon() as soon:

            def begin(artifact: Path) -> None:
                soon.begin(artifact, port=port or free_port(), name=name, replicas=1, log=log)

            report = run(recipe, out=out, when_trained=begin)
            console.print("\n[bold]2  Serve[/]  the merged model on an OpenAI-compatible endpoint")
            begin(report.artifact)  # where nothing was left to train
            endpoint = soon.endpoint()
            console.print(f"{endpoint.url}/v1 answers as {endpoint.names[0]}", soft_wrap=True)
            console.print("\n[bold]3  Ask[/]  questions that no training file holds in these words\n")
            table = Table(box=None, padding=(0, 2, 1, 0), pad_edge=False)
            for column, style in (("question", ""), ("before (tiny)", "red"), ("after", "green")):
                table.add_column(column, style=style, overflow="fold", ratio=1)
            questions = _questions(asked)
            with quiet(log):
                answers_before = _answers_before(questions)
            for question, before in zip(questions, answers_before, strict=True):
                table.add_row(question, before, _ask(endpoint.url, endpoint.names[0], question))
            console.print(table)
    console.print()
    for stage in report.stages:
        if stage.reward is not None:
            _tell(console, f"held-out reward, {stage.name}", stage.reward, "")
        elif stage.steps:
            _tell(console, f"held-out loss, {stage.name}", stage.loss, f" nats per {stage.unit}")
    console.print(f"\nreport    {os.path.relpath(report.out / 'report.html')}")
    console.print(f"chat      .venv/bin/fettle chat {os.path.relpath(report.artifact)}")
    console.print(f"serve     .venv/bin/fettle serve {os.path.relpath(report.artifact)}")
    console.print(f"all of it took {duration(time.monotonic() - began)}")


def _tell(console: Console, what: str, figures: Mapping[str, float | None], unit: str) -> None:
    before, after = figures["heldout_before"], figures["heldout_after"]
    if before is not None and after is not None:
        console.print(f"{what:<25} {before:.2f} → {after:.2f}{unit}")


def _answers_before(questions: Sequence[str]) -> list[str]:
    """What the base says, by transformers: the endpoint has the trained model alone."""
    # Here, because training needs none of it: 5 s of imports.
    from fettle.evaluate.generate import answers
    from fettle.models.generate import load_speaker

    tokenizer = load_tokenizer(BUNDLED["tiny"])
    turns = [Prompt((Message("user", question),)) for question in questions]
    prompts = [ids for ids, _ in Coder(tokenizer).code([Record(Path(), 0, prompt=one) for one in turns])]
    model = load_speaker(BUNDLED["tiny"], None)
    said = dict(answers(model, tokenizer, prompts, end_ids=end_ids(tokenizer), max_new_tokens=_MOST_TOKENS))
    return [said[place].text for place in range(len(questions))]


def _questions(file: Path) -> list[str]:
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [row["messages"][0]["content"] for row in rows]


def _ask(url: str, model: str, question: str) -> str:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": _MOST_TOKENS,
        "temperature": 0,
    }
    answer = requests.post(f"{url}/v1/chat/completions", json=body, timeout=120)
    if not answer.ok:
        raise FettleError(f"the endpoint answered {answer.status_code}: {answer.text[:300]}")
    return str(answer.json()["choices"][0]["message"]["content"]).strip()
