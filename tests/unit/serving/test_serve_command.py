"""`fettle serve` up to where the engine would start."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from fettle.cli.serve import adapters_of, serve_command
from fettle.errors import UserError

app = typer.Typer()
app.command()(serve_command)


def test_adapters_are_named_folders() -> None:
    assert adapters_of(["a=x", "b=y=z"]) == {"a": Path("x"), "b": Path("y=z")}


@pytest.mark.parametrize("given", [["a"], ["=x"], ["a="], ["a=x", "a=y"]])
def test_anything_else_is_refused(given: list[str]) -> None:
    with pytest.raises(UserError, match="--adapter"):
        adapters_of(given)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["/nowhere"], "no model"),
        (["tiny", "--host", "203.0.113.1"], "an endpoint on 203.0.113.1 without keys answers whoever reaches it"),
        (["tiny", "--host", "203.0.113.1", "--keys", "no-keys.json"], "cannot listen on"),
        (["tiny", "--port", "0"], "is no port"),
        (["tiny", "--max-model-len", "100000"], "is more than the model's"),
        (["tiny", "--dtype", "float"], "unknown dtype 'float'"),
    ],
)
def test_mistakes_are_told_before_anything_starts(words: list[str], reason: str) -> None:
    result = CliRunner().invoke(app, words)

    assert isinstance(result.exception, UserError) and reason in str(result.exception)
    assert "starting Ray" not in result.stdout


def test_the_commands_import_nothing_heavy() -> None:
    heavy = ("torch", "ray", "vllm", "transformers", "requests")
    program = f"import sys, fettle.cli.serve, fettle.cli.chat; print([m for m in {heavy} if m in sys.modules])"

    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "[]\n"
