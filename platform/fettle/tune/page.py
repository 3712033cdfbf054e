"""What a sweep came to, written down: sweep.json, and sweep.html, one file that needs no other."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from pathlib import Path

from jinja2 import Environment, FileSystemLoader

from fettle import pipeline
from fettle.artifact import replace_text
from fettle.pipeline.console import duration
from fettle.tune.charts import learning, parallel
from fettle.tune.results import Results, as_value, in_words, short_names


def write_results(results: Results) -> None:
    """`sweep.json` and `sweep.html` in the sweep's folder, each whole or as it was."""
    told = asdict(results) | {"out": str(results.out), "steps": results.steps, "tokens": results.tokens}
    replace_text(results.out / "sweep.json", json.dumps(told, indent=2) + "\n")
    replace_text(results.out / "sweep.html", page(results))


def page(results: Results) -> str:
    """The page's text, of a sweep that has a best trial."""
    assert results.best is not None
    folders = [Path(__file__).parent, Path(pipeline.__file__).parent]  # the style is that of a run's report
    environment = Environment(loader=FileSystemLoader(folders), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("sweep.html").render(
        results=results,
        is_whole=results.best.state == "done",
        names=short_names(results.keys).values(),
        value=as_value,
        duration=duration,
        charts=[parallel(results), learning(results)],
        taken=taken(results),
        command=shlex.join(["fettle", "run", str(results.out / "best.yaml"), "--out", str(results.out)]),
    )


def taken(results: Results) -> list[tuple[int, int, int, str]]:
    """(round, trial, whose weights it took, its settings from then on), in the order of the rounds."""
    numbers = {row.id: number for number, row in enumerate(results.rows, start=1)}
    found = [
        (past.round - 1, numbers[row.id], numbers[past.took], in_words(past.settings))
        for row in results.rows
        for past in row.past
        if past.took is not None
    ]
    return sorted(found)
