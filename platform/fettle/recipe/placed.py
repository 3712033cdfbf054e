"""A recipe for another folder than the one it lies in: what its relative paths name, as absolute ones."""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import Any

from fettle.recipe.top import Recipe

_PATHS = {"path", "data", "prompts", "shots", "heldout", "replay", "base", "from", "teacher", "critic", "model"}
_PATHS |= {"against", "function", "environment", "chat_template", "registry", "tracking", "storage", "uri", "tasks"}
_STAGES = {"from", "teacher", "critic", "model", "against"}
"""Keys that name a stage, where one is called so."""
_BUNDLED = {"base", "chat_template", "teacher", "against"}
_MADE = {"registry"}
"""Keys that name folders which need not be there yet."""


def placed(recipe: Recipe, bundled: Collection[str] = ()) -> dict[str, Any]:
    """What is in the recipe's file, with every path that is relative to it made absolute. A name of a stage, of a model
    or of a published version stays as it is. bundled: names of models and templates that come before any path."""
    stages = {stage.name for stage in recipe.stages}

    def path(key: str, text: str) -> str:
        if (
            (key in _STAGES and text in stages)
            or (key in _BUNDLED and text in bundled)
            or "://" in text
            or text.startswith(("/", "~"))
        ):
            return text
        file, colon, inside = text.partition(":") if key in ("function", "environment") else (text, "", "")
        folder = recipe.file.parent
        if key in _MADE or (folder / file).exists() or (_is_pattern(file) and any(folder.glob(file))):
            return os.path.abspath(folder / file) + colon + inside
        return text

    def walked(key: str, value: Any) -> Any:
        if isinstance(value, dict):
            return {name: walked(name, one) for name, one in value.items()}
        if isinstance(value, (list, tuple)):
            return [walked(key, one) for one in value]
        return path(key, value) if isinstance(value, str) and key in _PATHS else value

    tree: dict[str, Any] = walked("", recipe.tree)
    return tree


def _is_pattern(text: str) -> bool:
    return any(sign in text for sign in "*?[")
