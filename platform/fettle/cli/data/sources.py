"""What the commands of `fettle data` read: paths with reading keys, or a recipe; and with which base's tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fettle.cli.run import parse_overrides
from fettle.errors import UserError, did_you_mean
from fettle.recipe.kinds import YIELDS_MODEL
from fettle.recipe.merge import MergeStage
from fettle.recipe.stages import StageBase, TrainingStage

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from fettle.recipe import Recipe
    from fettle.recipe.data import DataSpec
    from fettle.recipe.from_nothing import FromNothing

LONGEST = 2048

BaseOption = Annotated[
    str | None, typer.Option("--base", help="A model whose tokenizer is used: tiny, folder, hub id.")
]
TemplateOption = Annotated[
    str | None, typer.Option("--chat-template", help="In place of the base's: a bundled one's name, or a .jinja file.")
]
LengthOption = Annotated[int | None, typer.Option("--max-length", min=8, help="Tokens of the longest example.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="How files are read, as in a recipe: format=text, columns.prompt=question."
    ),
]


@dataclass(frozen=True)
class Base:
    """A model's name as the user gave it, its tokenizer, the longest example in tokens, and whether prompts and answers
    are texts by themselves (an encoder-decoder model's)."""

    name: str
    tokenizer: PreTrainedTokenizerBase
    max_length: int
    is_halved: bool = False


def is_recipe(paths: Sequence[str]) -> bool:
    """Whether the arguments are one recipe, and not files of data."""
    return len(paths) == 1 and paths[0].endswith((".yaml", ".yml"))


def specs_of(paths: Sequence[str], set_: list[str] | None) -> list[DataSpec]:
    """The paths as sources, read as `--set` says. Raises UserError for a key that sources do not have."""
    from pydantic import ValidationError

    from fettle.recipe.data import DataSpec

    keys: dict[str, Any] = {}
    for dotted, value in parse_overrides(set_ or []).items():
        *above, last = dotted.split(".")
        here = keys
        for part in above:
            here = here.setdefault(part, {})
            if not isinstance(here, dict):
                raise UserError(f"--set {dotted}: '{part}' has a value already")
        here[last] = value
    known = [name for name in DataSpec.model_fields if name not in ("path", "weight")]
    for key in keys:
        if key not in known:
            raise UserError(f"--set {key}: unknown key{did_you_mean(key, known)}", expected=", ".join(known))
        if key in ("columns", "roles", "hub") and not isinstance(keys[key], dict):
            raise UserError(f"--set {key}={keys[key]}", expected=f"--set {key}.KEY=VALUE, once for each key")
    try:
        return [DataSpec.model_validate_strings({"path": path, **keys}) for path in paths]
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        got = f"{first['msg'][0].lower()}{first['msg'][1:]}"
        raise UserError(f"--set {field}: {got}, not {first['input']!r}") from None


def load_base(
    name: str, max_length: int | None, template: str | None = None, relative_to: Path | None = None, **where: Any
) -> Base:
    """A model's tokenizer. template: the text of a chat template in place of its own."""
    from fettle.data.chat import check_template
    from fettle.models.base import base_and_adapter, load_tokenizer, positions_of, resolve_base, template_in
    from fettle.models.family import family_of

    folder = resolve_base(name, relative_to, **where)
    root, adapter = base_and_adapter(folder)
    positions = positions_of(root)
    if max_length is not None and max_length > positions:
        raise UserError(f"max_length {max_length} is above the {positions} positions of {name}", **where)
    kept = template_in(folder) if adapter is not None else None
    tokenizer = load_tokenizer(root, template or kept)
    if template is not None:
        check_template(tokenizer, file=where.get("file"), field="chat_template")
    return Base(name, tokenizer, max_length or min(positions, LONGEST), family_of(root) == "seq2seq")


def load_template(name: str | None) -> str | None:
    """The text of the chat template that the user names, if any."""
    from fettle.models.base import resolve_template

    return resolve_template(name) if name is not None else None


def stage_base(
    recipe: Recipe, stage: TrainingStage, base: str | None, max_length: int | None, template: str | None = None
) -> Base:
    """The base whose tokenizer the stage uses: what the user says, its own, or that of the stage it goes on from."""
    from fettle.models.base import resolve_template

    wanted = max_length or stage.max_length
    text = load_template(template)
    if text is None and recipe.chat_template is not None:
        told = recipe.where("chat_template")
        text = resolve_template(recipe.chat_template, recipe.file.parent, **told)
    if base is not None:
        return load_base(base, wanted, text)
    name, field = _origin(recipe, stage)
    where: dict[str, Any] = recipe.where(field)
    if not isinstance(name, str):
        if not isinstance(name.tokenizer, str):
            got = "this stage begins from nothing, and its tokenizer is learned when the recipe runs"
            raise UserError(got, **where, fix="name a model whose tokenizer is used here with --base, such as tiny")
        name = name.tokenizer
    return load_base(name, wanted, text, recipe.file.parent, **where)


def _origin(recipe: Recipe, stage: TrainingStage) -> tuple[str | FromNothing, str]:
    """(the model that a stage begins from, however many stages before it, the recipe's field that names it)."""
    by_name = {other.name: other for other in recipe.stages}
    origin: StageBase | None = stage
    while origin is not None:
        named: dict[str, str | FromNothing | None] = {"from": origin.from_}
        if isinstance(origin, TrainingStage):
            named["base"] = origin.base
        elif isinstance(origin, MergeStage) and origin.adapters:
            named["adapters.0.from"] = origin.adapters[0].from_
        key, value = next(((key, value) for key, value in named.items() if value is not None), ("", None))
        if value is not None and not (isinstance(value, str) and value in by_name):
            return value, f"stages.{origin.name}.{key}"
        earlier = recipe.stages[: list(by_name).index(origin.name)]
        models = [one for one in earlier if one.kind in YIELDS_MODEL]
        origin = by_name[value] if value else (models[-1] if models else None)
    return recipe.base, "base"
