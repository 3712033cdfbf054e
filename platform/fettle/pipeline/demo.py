"""The main job, shown: train the demo's recipe, serve the result, ask the endpoint before and after."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import requests
from rich.console import Console
from rich.table import Table

from fettle.cluster import ray_session
from fettle.errors import FettleError, UserError
from fettle.pipeline.console import duration
from fettle.pipeline.runner import run
from fettle.serving.app import serve
from fettle.serving.port import free_port
from fettle.signals import interruptible

_REPOSITORY = Path(__file__).parents[3]


def demo(out: str | Path = "runs/demo", port: int | None = None) -> None:
    """Trains recipes/demo.yaml and prints the answers of its base and of its result side by side.

    port: of the endpoint, by default a free one. Raises UserError outside a clone of the repository.
    """
    recipe, asked = (
        _REPOSITORY / "recipes" / "demo.yaml",
        _REPOSITORY / "recipes" / "northline" / "demo_questions.jsonl",
    )
    if not recipe.is_file():
        raise UserError(
            "the demo's recipe and data are not here", file=recipe, fix="run it in a clone of the repository"
        )
    console, began = Console(highlight=False), time.monotonic()
    console.print("[bold]1  Train[/]  a tiny model reads a night-train company's papers and conversations")
    with interruptible("; the same command goes on from here"), ray_session():
        report = run(recipe, out=out)
        console.print("\n[bold]2  Serve[/]  the base and the trained adapter on one endpoint")
        log = Path(out).resolve() / "logs" / "serve.log"
        with serve(report.artifact, port=port or free_port(), name=report.recipe, log=log) as endpoint:
            base, tuned = endpoint.names[0], endpoint.names[-1]
            console.print(f"{endpoint.url}/v1 answers as {base} and {tuned}", soft_wrap=True)
            console.print("\n[bold]3  Ask[/]  questions that no training file holds in these words\n")
            table = Table(box=None, padding=(0, 2, 1, 0), pad_edge=False)
            for column, style in (
                ("question", ""),
                (f"before ({base})", "red"),
                ("after", "green"),
            ):
                table.add_column(column, style=style, overflow="fold", ratio=1)
            for question in _questions(asked):
                table.add_row(question, *(_ask(endpoint.url, name, question) for name in (base, tuned)))
            console.print(table)
    console.print()
    for stage in report.stages:
        before, after = stage.loss["heldout_before"], stage.loss["heldout_after"]
        console.print(f"held-out loss, {stage.name:<9} {before:.2f} → {after:.2f} nats per token")
    console.print(f"\nreport    {os.path.relpath(report.out / 'report.html')}")
    console.print(f"chat      .venv/bin/fettle chat {os.path.relpath(report.artifact)}")
    console.print(f"serve     .venv/bin/fettle serve {os.path.relpath(report.artifact)}")
    console.print(f"all of it took {duration(time.monotonic() - began)}")


def _questions(file: Path) -> list[str]:
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [row["messages"][0]["content"] for row in rows]


def _ask(url: str, model: str, question: str) -> str:
    body = {"model": model, "messages": [{"role": "user", "content": question}], "max_tokens": 48, "temperature": 0}
    answer = requests.post(f"{url}/v1/chat/completions", json=body, timeout=120)
    if not answer.ok:
        raise FettleError(f"the endpoint answered {answer.status_code}: {answer.text[:300]}")
    return str(answer.json()["choices"][0]["message"]["content"]).strip()
