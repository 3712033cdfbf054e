"""Whether several records can lie in one row, told from a model's configuration and the adapter's kind."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from fettle.models.family import PADS_FIRST, family_of
from fettle.recipe.adapter import AdapterSpec

# Encoders whose attention is given by a mask alone. (ModernBERT's window would be lost with a mask of ours.)
_PACKED_ENCODERS = ("bert", "distilbert", "electra")


def first_position(config: Any) -> int:
    """The position of a text's first token, of a transformers configuration."""
    return config.pad_token_id + 1 if config.model_type in PADS_FIRST else 0


def why_not_packed(base: Path, adapter: AdapterSpec) -> str | None:
    """Why records cannot share a row without seeing each other; None where they can. base: the model's folder."""
    family = family_of(base)
    if family == "masked":
        model_type = json.loads((base / "config.json").read_text(encoding="utf-8"))["model_type"]
        known = (*_PACKED_ENCODERS, *PADS_FIRST)
        return None if model_type in known else f"models of type {model_type} take no block-diagonal attention mask"
    if family == "seq2seq":
        return "an encoder-decoder model's answers would see the prompts of all records in their row"
    return _why_not_causal(base)


@cache  # a model's folder does not change under a run
def _why_not_causal(base: Path) -> str | None:
    from transformers import AutoConfig

    from fettle.models.apart import keeps_apart

    config = AutoConfig.from_pretrained(base, trust_remote_code=False)
    if config.model_type == "bloom" or getattr(config, "alibi", False):
        return f"a {config.model_type} model has ALiBi instead of positions, and they run on over all records of a row"
    is_apart = keeps_apart(config)
    if is_apart is None:
        return f"whether a {config.model_type} model keeps the records of a row apart cannot be tried"
    return None if is_apart else f"transformers' {config.model_type} models let the records of a row see each other"
