"""`fettle generate` up to where an engine would start."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fettle.cli.main import app
from fettle.engine.sampling import Sampling
from fettle.errors import UserError
from fettle.pipeline import generating
from fettle.pipeline.generating import Generated


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The one we are in, with prompts in p.jsonl and a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "p.jsonl").write_text(json.dumps({"question": "Why?"}) + "\n")
    return tmp_path


def call(*words: str) -> str:
    done = CliRunner().invoke(app, ["generate", "tiny", "p.jsonl", "--set", "columns.prompt=question", *words])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


def test_every_word_reaches_the_function(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, Any] = {}

    def remember(model: str, source: Any, out: Path, sampling: Sampling, **how: Any) -> Generated:
        told.update(how, model=model, columns=source.spec.columns, out=out, sampling=sampling)
        return Generated(out, rows=1, answered=1, tokens=8, unended=0, seconds=2.0)

    monkeypatch.setattr(generating, "generate", remember)
    call(
        *("--out", "a.jsonl", "--adapter", "polite=runs/a", "--registry", "shared", "--model-name", "support:7"),
        *("--model-column", "who", "--max-new-tokens", "9", "--temperature", "0.8", "--top-p", "0.9", "--samples", "4"),
        *("--seed", "5", "--limit", "3", "--engines", "2", "--dtype", "bfloat16", "--max-model-len", "99"),
    )

    assert told.pop("logs").parent == folder / "cache" / "fettle" / "logs"
    del told["say"]
    assert told == {
        "model": "tiny",
        "columns": {"prompt": "question"},
        "out": Path("a.jsonl"),
        "sampling": Sampling(9, 0.8, 0.9, num_samples=4, seed=5),
        "adapters": {"polite": Path("runs/a")},
        "registry": Path("shared"),
        "model_name": "support:7",
        "model_column": "who",
        "limit": 3,
        "engines": 2,
        "dtype": "bfloat16",
        "max_model_len": 99,
    }


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--out", "p.jsonl"], r"^p\.jsonl: --out: it is there already\n.*fix: remove it, or choose another --out"),
        (["--out", "."], r"^\.: --out: a folder"),
        (["--out", "a.jsonl", "--adapter", "polite"], "^--adapter: 'polite' is not NAME=FOLDER"),
        (["--out", "a.jsonl", "--adapter", "polite=nowhere"], "nowhere"),
        (["--out", "a.jsonl", "--set", "colums.prompt=x"], "did you mean 'columns'"),
        (["--out", "a.jsonl", "--samples", "2"], "^--samples: at temperature 0 there is one answer to a prompt"),
        (["--out", "a.jsonl", "--max-model-len", "100000"], "is more than the model's"),
    ],
)
def test_a_mistake_is_one_clear_error(words: list[str], told: str) -> None:
    with pytest.raises(UserError, match=told):
        call(*words)
