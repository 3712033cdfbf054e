"""A small recipe with a sweep, for tests that train nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from fettle.recipe import Recipe, load_recipe

LR = "stages.answer.lr"


@pytest.fixture
def swept(tmp_path: Path) -> Callable[..., Recipe]:
    """Writes and loads a recipe of two stages whose `sweep` has the given keys over a small random one."""
    (tmp_path / "notes.jsonl").write_text('{"text": "a night train"}\n' * 4)
    (tmp_path / "chat.jsonl").write_text('{"prompt": "where to?", "completion": "north"}\n' * 4)

    def load(*, stage: dict[str, Any] | None = None, top: dict[str, Any] | None = None, **sweep: Any) -> Recipe:
        answer = {"name": "answer", "kind": "sft", "data": "chat.jsonl", "max_steps": 18, **(stage or {})}
        told = {
            "name": "small",
            "adapter": {"kind": "lora", "r": 4},
            "stages": [{"name": "read", "kind": "pretrain", "data": "notes.jsonl", "max_steps": 2}, answer],
            "sweep": {"search": "random", "trials": 5, "space": {LR: {"loguniform": [1e-4, 1e-2]}}, **sweep},
            **(top or {}),
        }
        if told["sweep"] is not None:
            told["sweep"] = {key: value for key, value in told["sweep"].items() if value is not None}
        (tmp_path / "small.yaml").write_text(yaml.safe_dump(told, sort_keys=False))
        return load_recipe(tmp_path / "small.yaml")

    return load
