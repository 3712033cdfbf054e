"""`base: {config, tokenizer}`: a base that has learned nothing yet, made on the driver in the run's folder."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from fettle.artifact import library_versions
from fettle.data.bpe import learn_tokenizer, texts_of
from fettle.data.cache import is_whole, new_folder
from fettle.data.rows import complaint_of
from fettle.data.sources import read_source
from fettle.errors import UserError
from fettle.models.base import digest_of, load_tokenizer, resolve_base
from fettle.models.family import family_of_config
from fettle.models.fresh import fresh_config, write_fresh
from fettle.models.licences import MADE
from fettle.pipeline.console import quiet
from fettle.pipeline.origin import Origin
from fettle.pipeline.planned import PlannedSource, hash_of
from fettle.recipe import Recipe
from fettle.recipe.from_nothing import DEFAULT_VOCABULARY, FromNothing, TokenizerSpec

_MOST_CHARACTERS = 64 << 20
_FEWEST_TOKENS = 300  # the 256 bytes, special tokens, and hardly anything learned


def fresh_origin(
    recipe: Recipe,
    base: FromNothing,
    sources: Sequence[PlannedSource],
    out: Path,
    chat_template: str | None,
    **where: Any,
) -> Origin:
    """The base, below `out`, made where it is not there yet. sources: of the stage whose data a tokenizer learns from.

    where: file, line, field of the UserError raised where the configuration is no model's, a tokenizer is not there, or
    the data is too little to learn one from.
    """
    folder_of_recipe = recipe.file.parent
    config = fresh_config(base.config, folder_of_recipe, **where)
    told: dict[str, Any] = {"config": config.to_dict(), "seed": recipe.seed, "versions": library_versions()}
    taken = None
    if isinstance(base.tokenizer, TokenizerSpec):
        told |= {"vocab_size": base.tokenizer.vocab_size, "chat_template": chat_template}
        told |= {"data": [source.digest for source in sources], "at_most": _MOST_CHARACTERS}
    else:
        taken = resolve_base(base.tokenizer, folder_of_recipe, **where)
        told["tokenizer"] = digest_of(taken)
    identity = hash_of(told)
    folder = out / "bases" / f"nothing-{identity[:12]}"
    if not is_whole(folder):
        made: dict[str, Any] = {}
        if taken is not None:
            tokenizer = load_tokenizer(taken)
        else:
            assert isinstance(base.tokenizer, TokenizerSpec)
            tokenizer, made = _learned(base.tokenizer, sources, family_of_config(config), chat_template, **where)
        # quiet: progress bars, and DeepSpeed's word on what it finds here.
        with new_folder(folder) as partial, quiet(Path(os.devnull)):
            made["weights"] = write_fresh(partial, config, tokenizer, recipe.seed)
            _check_same(tokenizer, partial, **where)
            (partial / MADE).write_text(json.dumps(made | {"tokens": len(tokenizer)}), encoding="utf-8")
    return Origin(folder, folder, f"nothing:{identity}")


def what_was_made(root: Path) -> str | None:
    """What to tell of a base that was made from nothing; None of any other."""
    if not (root / MADE).is_file():
        return None
    made = json.loads((root / MADE).read_text(encoding="utf-8"))
    told = f"base: {made['weights']:,} random weights and a vocabulary of {made['tokens']:,} tokens"
    if "characters" in made:
        told += (
            f", learned from {'all' if made['is_all'] else 'the first'} {made['characters']:,} characters of the data"
        )
    return told


def _learned(
    spec: TokenizerSpec, sources: Sequence[PlannedSource], family: Any, chat_template: str | None, **where: Any
) -> tuple[PreTrainedTokenizerBase, dict[str, Any]]:
    """(the tokenizer, what to tell of it). Of each source an equal share is read, at most `_MOST_CHARACTERS` of all."""
    share = _MOST_CHARACTERS // len(sources)
    made: dict[str, Any] = {"characters": 0, "is_all": True}

    def texts() -> Iterator[str]:
        for source in sources:
            left = share
            on_error = complaint_of(source.opened.spec)
            for text in (text for record in read_source(source.opened, on_error) for text in texts_of(record)):
                made["is_all"] &= len(text) <= left
                yield text[:left]
                made["characters"] += min(len(text), left)
                left -= min(len(text), left)
                if not left:
                    break

    tokenizer = learn_tokenizer(texts(), spec.vocab_size or DEFAULT_VOCABULARY, family, chat_template)
    wanted = spec.vocab_size or (_FEWEST_TOKENS + len(tokenizer.all_special_ids))
    if len(tokenizer) < wanted:
        raise UserError(
            f"{made['characters']:,} characters give {len(tokenizer):,} tokens that occur twice, fewer than {wanted:,}",
            **where,
            fix="more data in the first stage, a smaller vocab_size, or another model's tokenizer (tokenizer: tiny)",
        )
    return tokenizer, made


def _check_same(tokenizer: PreTrainedTokenizerBase, folder: Path, **where: Any) -> None:
    """Raises UserError where transformers would make another tokenizer of the folder: it may rebuild parts of one by
    the model_type beside it (train.md 0d)."""
    probe = "The night train, at 7:45 — Überfahrt\n  costs  12 euros."
    if load_tokenizer(folder)(probe)["input_ids"] != tokenizer(probe)["input_ids"]:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
        raise UserError(
            f"transformers rebuilds the tokenizer of a model of type {kind} as another one",
            **where,
            fix="name a model of that type whose tokenizer is taken (tokenizer: FOLDER)",
        )
