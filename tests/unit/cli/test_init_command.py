"""`fettle init`: what is refused before anything is read."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from fettle.cli.main import app


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--task", "sumarise"], "--task: no task 'sumarise' (did you mean 'summarise'?)"),
        (["--task", "chat", "--goal", "rouge=1"], "--goal rouge=1: no score 'rouge' of chat (did you mean 'rougeL'?)"),
        (["--task", "chat", "--gain", "f1=high"], "--gain f1=high\n  expected: --gain f1=NUMBER"),
        (["--task", "domain", "--goal", "f1=1"], "--goal f1=1: no score 'f1' of domain\n  expected: loss, perplexity"),
    ],
)
def test_a_slip_is_told_with_what_is_meant(options: list[str], told: str) -> None:
    done = CliRunner().invoke(app, ["init", "--data", "x.jsonl", *options])
    assert str(done.exception).startswith(told)
