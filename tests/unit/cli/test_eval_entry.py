"""`fettle eval --entry`: an entry of a recipe's `evaluate`, which says all by itself."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from fettle.cli.main import app
from fettle.errors import UserError


def refused(*words: str) -> UserError:
    done = CliRunner().invoke(app, ["eval", "tiny", *words])
    assert isinstance(done.exception, UserError)
    return done.exception


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ("{kind: judge", "--entry: not valid YAML: "),
        ("{kind: jugde}", "--entry.kind: unknown kind 'jugde' (did you mean 'judge'?)"),
        ("{kind: harness, taks: [x]}", "--entry.taks: unknown key (did you mean 'tasks'?)"),
        ("{kind: harness, tasks: [nowhere]}", "--entry: evaluate.0.tasks: no task at "),
        (
            "{kind: reward, data: x.jsonl, model: taste}",
            "--entry: full weights lie over no other model that they could",
        ),
    ],
)
def test_a_mistake_in_an_entry_is_told_with_its_key(tmp_path, monkeypatch, entry, told):
    monkeypatch.chdir(tmp_path)

    assert str(refused("--entry", entry)).replace(f"{tmp_path}/", "").startswith(told)


def test_nothing_else_is_said_beside_an_entry():
    assert refused("--entry", "{}", "--data", "x.jsonl").field == "--data"


def test_without_data_there_is_nothing_to_measure():
    assert refused().field == "--data"
