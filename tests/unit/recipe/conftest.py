"""A recipe's file, written and loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fettle.errors import UserError
from fettle.recipe import Recipe, load_recipe

Load = Callable[..., Recipe]
Told = Callable[..., str]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """`load(text | bytes, **overrides)`: the recipe in a file with that content; overrides' dots are `__`."""

    def load(content: str | bytes, **overrides: Any) -> Recipe:
        file = tmp_path / "recipe.yaml"
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return load_recipe(file, {key.replace("__", "."): value for key, value in overrides.items()})

    return load


@pytest.fixture
def told(load: Load, tmp_path: Path) -> Told:
    """`told(text, **overrides)`: the message of the mistake in it, without the folder the recipe lies in."""

    def told(content: str | bytes, **overrides: Any) -> str:
        with pytest.raises(UserError) as caught:
            load(content, **overrides)
        return str(caught.value).replace(f"{tmp_path}/", "")

    return told
