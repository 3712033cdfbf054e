"""One entry of a recipe's `evaluate` for a model that is there already: what `fettle eval --entry` does."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fettle.errors import UserError
from fettle.pipeline.evaluated import Comparison
from fettle.pipeline.evaluation import check_evaluations, compare
from fettle.pipeline.origin import Origin
from fettle.pipeline.planned import Planned
from fettle.recipe import Recipe, load_recipe
from fettle.recipe.judged import AnsweredSpec
from fettle.recipe.yaml_lines import parse_value

_FIELD = "--entry"


@dataclass(frozen=True, kw_only=True)
class _Given(Planned):
    """A model in the place of a recipe's last stage."""

    given: Origin

    def result(self) -> Origin:
        return self.given


def evaluate_entry(origin: Origin, entry: str, out: Path, say: Callable[[str], None]) -> Comparison:
    """The model compared with the base it lies over, or with what the entry names. entry: YAML, with paths from the
    current folder. Below `out` lies what was worked out.

    Raises UserError where the entry is none, cannot be done, or compares full weights with themselves.
    """
    recipe = _recipe(origin, entry)
    spec = recipe.evaluate[0]
    if isinstance(spec, AnsweredSpec) and spec.against == "base" and origin.adapter is None:
        got = "full weights lie over no other model that they could be compared with"
        raise UserError(got, field=_FIELD, fix="name one: against: FOLDER")
    stage = _Given(
        spec=recipe.stages[0],
        cluster=recipe.cluster,
        origin=origin,
        precision="fp32",
        fingerprint=origin.identity,
        folder=out,
        artifact=origin.adapter or origin.base,
        given=origin,
    )
    out.mkdir(parents=True, exist_ok=True)
    for note in check_evaluations(recipe, [stage]):
        say(note)
    (found,) = compare(recipe, [stage], out, say)
    return found


def _recipe(origin: Origin, entry: str) -> Recipe:
    """A recipe that has the entry alone; its one stage is never planned, and reads nothing."""
    name = re.sub(r"[^A-Za-z0-9._-]", "-", (origin.adapter or origin.base).name).lstrip("._-")[:64] or "model"
    try:
        read = parse_value(entry, _FIELD, Path())
    except UserError as error:
        got = f"not valid YAML: {error.got.rpartition('not valid YAML: ')[2]}"
        raise UserError(got, field=_FIELD, expected="{kind: …, …}, as in a recipe's evaluate") from None
    told: dict[str, Any] = {"name": "eval", "base": str(origin.root), "evaluate": [read]}
    told["stages"] = [{"name": name, "kind": "sft", "data": "none"}]
    with tempfile.TemporaryDirectory(prefix="fettle-") as folder:
        file = Path(folder, "recipe.yaml")
        file.write_text(json.dumps(told), encoding="utf-8")
        try:
            recipe = load_recipe(file)
        except UserError as error:
            field = (error.field or "").replace("evaluate.0", _FIELD, 1)
            raise UserError(error.got, field=field, expected=error.expected, fix=error.fix) from None
    recipe._file, recipe._lines = Path.cwd() / _FIELD, {}
    return recipe
