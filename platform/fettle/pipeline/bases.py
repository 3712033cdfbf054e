"""What each stage of a recipe begins from, as a configuration: what a plan needs of a base, without its weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fettle.errors import UserError
from fettle.models.base import BUNDLED
from fettle.models.fresh import fresh_config
from fettle.needs.trace import config_text
from fettle.pipeline.graph import named_folder
from fettle.recipe import Recipe
from fettle.recipe.adapter import AdapterSpec
from fettle.recipe.from_nothing import DEFAULT_VOCABULARY, FromNothing, TokenizerSpec
from fettle.recipe.kinds import YIELDS_MODEL
from fettle.recipe.merge import MergeStage
from fettle.recipe.stages import LearningStage, StageBase


@dataclass(frozen=True)
class Base:
    """name: for people. config: `config_text` of it. folder: where its configuration and tokenizer lie, if it is one.
    adapter: the one over it that the stage goes on with or merges."""

    name: str
    config: str
    folder: Path | None
    adapter: AdapterSpec | None = None


def bases_of(recipe: Recipe) -> dict[str, Base]:
    """By stage. Raises UserError, with file, line and field, where a base or what `from` names is not there."""
    found: dict[str, Base] = {}
    results: dict[str, Base] = {}
    for stage in recipe.stages:
        base = _base_of(recipe, stage, results)
        found[stage.name] = base
        results[stage.name] = _result(recipe, stage, base)
    return found


def base_called(recipe: Recipe, base: str | FromNothing, **where: Any) -> Base:
    """A base by name, or one to be made from nothing. where: file, line and field of a UserError."""
    if isinstance(base, FromNothing):
        config = fresh_config(base.config, recipe.file.parent, **where)
        folder = None
        if isinstance(base.tokenizer, TokenizerSpec):
            config.vocab_size = base.tokenizer.vocab_size or DEFAULT_VOCABULARY
        else:
            folder = _folder(base.tokenizer, recipe, **where)
            config.vocab_size = json.loads((folder / "config.json").read_text(encoding="utf-8"))["vocab_size"]
        return Base(f"a new {config.model_type}", config_text(config), folder)
    folder = _folder(base, recipe, **where)
    return Base(base, _config_in(folder, **where), folder)


def adapter_for(recipe: Recipe, stage: LearningStage, base: Base) -> AdapterSpec:
    """The stage's; where an earlier one goes on, that one."""
    if base.adapter is not None and not stage.merge_first and stage.adapter is None:
        return base.adapter if base.adapter.is_beside else recipe.adapter
    return stage.adapter or recipe.adapter


def _base_of(recipe: Recipe, stage: StageBase, results: dict[str, Base]) -> Base:
    at = f"stages.{stage.name}"
    if isinstance(stage, LearningStage) and stage.base is not None:
        return base_called(recipe, stage.base, **recipe.where(f"{at}.base"))
    name = stage.from_
    if isinstance(stage, MergeStage) and stage.adapters is not None:
        name = stage.adapters[0].from_
    if name is not None and name not in results:
        return _elsewhere(recipe, name, **recipe.where(f"{at}.from"))
    if name is not None:
        return results[name]
    earlier = [one.name for one in recipe.stages if one.name in results and one.kind in YIELDS_MODEL]
    return results[earlier[-1]] if earlier else base_called(recipe, recipe.base, **recipe.where("base"))


def _elsewhere(recipe: Recipe, name: str, **where: Any) -> Base:
    """A folder, or what a registry has: full weights, or an adapter with its base."""
    folder = named_folder(recipe, name, **where)
    told = folder / "artifact.json"
    if told.is_file():
        under = json.loads(told.read_text(encoding="utf-8")).get("base")
        if under is not None:
            base = Path(under["path"])
            same = recipe.adapter if recipe.adapter.is_beside else AdapterSpec(kind="lora")  # a run wants it the same
            return Base(name, _config_in(base, **where), base, same)
    return base_called(recipe, name, **where)


def _result(recipe: Recipe, stage: StageBase, base: Base) -> Base:
    if not isinstance(stage, LearningStage):
        return Base(base.name, base.config, base.folder)
    adapter = adapter_for(recipe, stage, base)
    return Base(base.name, base.config, base.folder, adapter if adapter.is_beside else None)


def _folder(name: str, recipe: Recipe, **where: Any) -> Path:
    """Where a base's config.json lies; of the hub's nothing else is fetched."""
    if name in BUNDLED:
        return BUNDLED[name]
    folder = (recipe.file.parent / Path(name).expanduser()).resolve()
    if (folder / "config.json").is_file():
        return folder
    if folder.is_dir():
        raise UserError(
            f"no model in {folder}: it has no config.json", **where, expected="a Hugging Face model's folder"
        )
    expected = f"{', '.join(BUNDLED)}, a folder, or a hub id like org/model"
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise UserError(f"no model '{name}' ({folder} is not there)", **where, expected=expected)
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(name, "config.json", etag_timeout=5)).parent
    except Exception as error:  # the hub's client raises many kinds; all mean the same to the user
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise UserError(
            f"'{name}' is no folder here and its config.json could not be fetched from the hub ({reason})",
            **where,
            expected=expected,
            fix="check the name and the network, or give a folder: a plan needs its config.json alone",
        ) from None


def _config_in(folder: Path, **where: Any) -> str:
    from transformers import AutoConfig

    try:
        return config_text(AutoConfig.from_pretrained(folder, trust_remote_code=False))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}/config.json: {str(error).splitlines()[0][:200]}", **where) from None
