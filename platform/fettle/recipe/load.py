"""recipe.yaml to a validated Recipe, each mistake told with its line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from fettle.errors import UserError, did_you_mean
from fettle.recipe.adapter import AdapterSpec
from fettle.recipe.auto import without_autos
from fettle.recipe.cluster import ClusterSpec
from fettle.recipe.combinations import check_combinations
from fettle.recipe.data import DataSpec, HeldoutSpec, HubSpec, ReplaySpec
from fettle.recipe.evaluate import EVALUATE_SPECS
from fettle.recipe.from_nothing import FromNothing, TokenizerSpec
from fettle.recipe.kinds import STAGE_SPECS, Stage
from fettle.recipe.merge import InterpolateSpec, MergeStage, WeightedAdapter
from fettle.recipe.optimizer import EarlyStopSpec, OptimizerSpec, ScheduleSpec
from fettle.recipe.publish import ParitySpec, PublishSpec
from fettle.recipe.stages import (
    BatchSpec,
    CheckpointSpec,
)
from fettle.recipe.storage import StorageSpec
from fettle.recipe.sweep import BudgetSpec, DomainSpec, MetricSpec, SweepSpec
from fettle.recipe.top import Recipe
from fettle.recipe.yaml_lines import parse_value, read_yaml

_PARTS: dict[str, type[BaseModel]] = {
    "base": FromNothing,
    "tokenizer": TokenizerSpec,
    "cluster": ClusterSpec,
    "adapter": AdapterSpec,
    "data": DataSpec,
    "heldout": HeldoutSpec,
    "replay": ReplaySpec,
    "hub": HubSpec,
    "batch": BatchSpec,
    "optimizer": OptimizerSpec,
    "schedule": ScheduleSpec,
    "early_stop": EarlyStopSpec,
    "checkpoint": CheckpointSpec,
    "publish": PublishSpec,
    "parity": ParitySpec,
    "storage": StorageSpec,
    "sweep": SweepSpec,
    "metric": MetricSpec,
    "space": DomainSpec,
    "budget": BudgetSpec,
    "adapters": WeightedAdapter,
    "interpolate": InterpolateSpec,
}
# Lists whose items are of several kinds, each with keys of its own.
_KINDS: dict[str, Mapping[str, type[BaseModel]]] = {"stages": STAGE_SPECS, "evaluate": EVALUATE_SPECS}
# What a bare word stands for: `schedule: linear` is `schedule: {kind: linear}`.
_PUBLISHED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}(@[a-z][a-z0-9_-]{0,31}|:[1-9][0-9]{0,8})")
_WORDS = {"schedule": "kind", "optimizer": "kind", "adapter": "kind", "data": "path", "adapters": "from"}
_IN_YAMLS_WORDS = {
    "tuple_type": "input should be a list",
    "model_type": "input should be keys with values",
    "model_attributes_type": "input should be keys with values",
}


def load_recipe(
    file: str | Path, overrides: Mapping[str, Any] | None = None, sweep: str | Path | None = None
) -> Recipe:
    """The recipe in `file`, with `overrides` (dotted key → value) laid over it. Raises UserError with the line.

    Text values of overrides are read as YAML, as `--set` gives them. sweep: a file whose content is the recipe's
    `sweep`, in place of its own.
    """
    file = Path(file)
    tree, lines = read_yaml(file)
    if not isinstance(tree, dict):
        raise UserError(f"a {_yaml_type(tree)}, not a recipe", file=file, line=1, expected="keys: name, base, stages")
    if sweep is not None:
        tree, lines = _with_sweep(tree, lines, Path(sweep))
    overridden = {
        _override(tree, key, parse_value(value, key, file) if isinstance(value, str) else value, file)
        for key, value in (overrides or {}).items()
    }
    return _checked(tree, lines, file.resolve(), overridden, Path(sweep).resolve() if sweep is not None else None)


def varied(recipe: Recipe, settings: Mapping[str, Any]) -> Recipe:
    """The recipe with other values of some dotted keys, without its `sweep`. Raises UserError where it is none with
    them."""
    tree = recipe.tree
    tree.pop("sweep", None)
    overridden = {_override(tree, key, value, recipe.file) for key, value in settings.items()}
    return _checked(tree, recipe._lines, recipe.file, overridden)


def recipe_as_run(settings: dict[str, Any], file: Path) -> Recipe:
    """The recipe that was run, of the settings that its run wrote down. file: where it lay, to which its paths are
    relative; it need not be there any more. Raises UserError where they are no recipe for this version of fettle."""
    return _checked(settings, {}, file, set())


def _with_sweep(tree: dict[str, Any], lines: dict[str, int], file: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """The recipe with the sweep in a file of its own, which may say `sweep:` above it."""
    told, places = read_yaml(file)
    if isinstance(told, dict) and set(told) == {"sweep"}:
        told, places = told["sweep"], {key.removeprefix("sweep."): line for key, line in places.items()}
    kept = {key: line for key, line in lines.items() if key.partition(".")[0] != "sweep"}
    return {**tree, "sweep": told}, kept | {f"sweep.{key}": line for key, line in places.items()}


def _checked(
    tree: dict[str, Any], lines: dict[str, int], file: Path, overridden: set[str], sweep: Path | None = None
) -> Recipe:
    told, autos = without_autos(tree)
    try:
        recipe = Recipe.model_validate(_tuples(told))
    except ValidationError as error:
        mistake = _as_user_error(error, told, lines, file, overridden)
        if sweep is not None and mistake.field is not None and mistake.field.partition(".")[0] == "sweep":
            where: Any = {"line": mistake.line, "field": mistake.field, "expected": mistake.expected}
            raise UserError(mistake.got, file=sweep, fix=mistake.fix, **where) from None
        raise mistake from None
    recipe._file, recipe._lines, recipe._tree, recipe._sweep_file = file, lines, tree, sweep
    recipe._autos = autos
    _check_names(recipe)
    check_combinations(recipe)
    return recipe


def _check_names(recipe: Recipe) -> None:
    seen: list[str] = []
    for stage in recipe.stages:
        field = f"stages.{stage.name}"
        if stage.name in seen:
            raise UserError(
                f"two stages are called '{stage.name}'",
                file=recipe.file,
                line=recipe.line(field),
                field=f"{field}.name",
                fix="give each stage a name of its own",
            )
        for key, origin in _origins(stage).items():
            if _PUBLISHED.fullmatch(origin) and not recipe.resolve(origin).exists():
                if recipe.publish is None:
                    raise UserError(
                        f"'{origin}' names a published version, and the recipe names no registry",
                        **recipe.where(f"{field}.{key}"),
                        fix="add publish: {registry: FOLDER}, or name the version's folder",
                    )
            elif origin not in seen and not recipe.resolve(origin).is_dir():
                raise UserError(
                    f"'{origin}' is neither an earlier stage nor a folder{did_you_mean(origin, seen)}",
                    **recipe.where(f"{field}.{key}"),
                    expected=f"one of {', '.join(seen)}, or an artifact's folder" if seen else "an artifact's folder",
                )
        seen.append(stage.name)


def _origins(stage: Stage) -> dict[str, str]:
    """What the stage says it begins from, by its field."""
    found = {"from": stage.from_} if stage.from_ is not None else {}
    if isinstance(stage, MergeStage):
        found |= {f"adapters.{number}.from": one.from_ for number, one in enumerate(stage.adapters or ())}
    return found


def _override(tree: dict[str, Any], key: str, value: Any, file: Path) -> str:
    """Sets a dotted key, and returns it with every stage by name; a list's item is named by its `name` or position."""
    here: Any = tree
    parts = key.split(".")
    for depth, part in enumerate(parts):
        last = depth == len(parts) - 1
        at: Any = part
        if isinstance(here, list):
            names = [str(item.get("name", i)) if isinstance(item, dict) else str(i) for i, item in enumerate(here)]
            if part not in names and not (part.isdigit() and int(part) < len(here)):
                raise UserError(
                    f"--set {key}: no '{part}'{did_you_mean(part, names)}", file=file, expected=", ".join(names)
                )
            at = names.index(part) if part in names else int(part)
            parts[depth] = names[at]
        elif not isinstance(here, dict):
            raise UserError(f"--set {key}: {here!r} has no keys", file=file)
        if last:
            here[at] = value
            break
        below = here[at] if isinstance(here, list) else here.get(at)
        if below is None:  # `batch.tokens` where there is no `batch`
            here[at] = {}
        elif isinstance(below, str) and isinstance(here, list) and parts[depth - 1] in _WORDS:
            here[at] = {_WORDS[parts[depth - 1]]: below}
        elif isinstance(below, str) and part in _WORDS:
            here[at] = [{"path": below}] if part == "data" else {_WORDS[part]: below}
        here = here[at]
    return ".".join(parts)


def _as_user_error(
    error: ValidationError, tree: dict[str, Any], lines: dict[str, int], file: Path, overridden: set[str]
) -> UserError:
    """The first mistake, as pydantic found it, in the words of the recipe."""
    found = error.errors(include_url=False)
    here_too = [e for e in found if found[0]["loc"][:2] == e["loc"][:2] or found[0]["loc"][:-1] == e["loc"][:-1]]
    # In a union every branch complains; the one that got furthest into the value is the one the user meant. A misspelt
    # key is both unknown and missing; unknown tells more.
    rank = {"extra_forbidden": 2, "literal_error": 0}
    first = max(here_too, key=lambda e: (len(e["loc"]), rank.get(e["type"], 1)))
    dotted, here, part = _walk(first["loc"], tree)
    field = ".".join(dotted)
    line = next((lines[key] for key in (".".join(dotted[:n]) for n in range(len(dotted), 0, -1)) if key in lines), None)
    said = "with --set" if any(f"{field}.".startswith(f"{key}.") for key in overridden) else None
    expected, fix = None, None
    kind = first["type"]
    if kind == "extra_forbidden":
        known = _keys_of(part)
        got, expected = f"unknown key{did_you_mean(str(first['loc'][-1]), known)}", "one of " + ", ".join(known)
    elif kind == "missing":
        got, fix = "this key is missing", f"add `{dotted[-1]}: …`"
    elif kind in {"union_tag_invalid", "union_tag_not_found"}:
        value = here.get("kind") if isinstance(here, dict) else None
        kinds, item = _KINDS[str(first["loc"][0])], "a stage" if first["loc"][0] == "stages" else "an evaluation"
        got = f"unknown kind '{value}'{did_you_mean(str(value), kinds)}" if value else f"{item} has a kind"
        expected = ", ".join(kinds)
        line = lines.get(f"{field}.kind", line)
        field += ".kind"
    elif kind == "too_short":
        got = f"a list of at least {first['ctx']['min_length']}, not of {first['ctx']['actual_length']}"
    else:
        got = _IN_YAMLS_WORDS.get(kind, first["msg"].removeprefix("Value error, "))
        or_words = [e for e in here_too if e["type"] == "literal_error" and e is not first]
        got += "".join(f" or {e['ctx']['expected']}" for e in or_words if _walk(e["loc"], tree)[0] == dotted)
        got = f"{got[0].lower()}{got[1:]}" + (f", not {here!r}" if not isinstance(here, (dict, list)) else "")
    if said:
        return UserError(f"{got} ({said})", file=file, field=field, expected=expected, fix=fix)
    return UserError(got, file=file, line=line, field=field, expected=expected, fix=fix)


def _walk(loc: tuple[int | str, ...], tree: Any) -> tuple[list[str], Any, type[BaseModel]]:
    """(dotted path with stages by name, the value there, the spec that holds its last key) of pydantic's `loc`.

    pydantic puts the names of union branches into `loc`; they are not in the recipe and are dropped.
    """
    dotted: list[str] = []
    part: type[BaseModel] = Recipe
    here = tree
    for depth, step in enumerate(loc):
        last = depth == len(loc) - 1
        if isinstance(step, int):
            if isinstance(here, list):
                here = here[step] if step < len(here) else None
                dotted.append(str(here.get("name", step)) if isinstance(here, dict) else str(step))
        elif depth == 2 and step in (kinds := _KINDS.get(str(loc[0]), {})):
            part = kinds[step]
        elif step.startswith("<"):  # a tag of `Base`
            continue
        elif isinstance(here, dict) and (step in here or last):
            dotted.append(step)
            here = here.get(step)
            if not last:
                part = _PARTS.get(step, part)
    return dotted, here, part


def _tuples(value: Any) -> Any:
    """Lists as tuples all the way down: specs are frozen, and strict about it."""
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    return {key: _tuples(item) for key, item in value.items()} if isinstance(value, dict) else value


def _keys_of(part: type[BaseModel]) -> list[str]:
    return [info.alias or name for name, info in part.model_fields.items()]


def _yaml_type(value: Any) -> str:
    names = {list: "list", str: "text", int: "number", float: "number", bool: "truth value", type(None): "nothing"}
    return names.get(type(value), type(value).__name__)
