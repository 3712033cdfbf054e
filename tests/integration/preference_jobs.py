"""Preference stages of the tiny model, and running them on one worker or two."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fettle.data.encode import encode
from fettle.data.formats import read_file
from fettle.data.tokens import TokenExample, grouped, write_tokens
from fettle.models.base import BUNDLED, load_tokenizer
from fettle.pipeline.prepare import end_ids
from fettle.recipe.adapter import FULL, AdapterSpec
from fettle.recipe.kinds import PreferenceStage
from fettle.recipe.stages import BatchSpec
from fettle.train.job import StageJob
from gloo import stage_job

STEPS = 6
LORA = AdapterSpec(kind="lora", r=4, alpha=8)


def make_preference_jobs(root: Path, folder: Path) -> Callable[..., StageJob]:
    """`make(name, loss="dpo", unpaired=False, …)`: stages below `folder` that differ in one thing."""
    tokenizer = load_tokenizer(BUNDLED["tiny"])
    records = list(read_file(root / "recipes" / "northline" / "preferences.jsonl")[1])[:60]
    pairs = list(grouped(encode(records, tokenizer, max_length=96)))
    sets = {"pairs": pairs, "single": [one for pair in pairs for one in _apart(pair)]}
    for name, examples in sets.items():
        write_tokens(folder / name, examples[:-12])
        write_tokens(folder / f"{name}-heldout", examples[-12:])
    (folder / "epoch").write_text("test")

    def make(
        name: str,
        *,
        loss: str = "dpo",
        unpaired: bool = False,
        packing: bool = True,
        accumulate: int = 1,
        adapter: AdapterSpec = FULL,
        **keys: Any,
    ) -> StageJob:
        spec = PreferenceStage(
            name=name,
            kind="preference",
            data="preferences.jsonl",
            loss=loss,
            max_steps=STEPS,
            batch=BatchSpec(sequences=6, accumulate=accumulate),
            packing=packing,
            lr=5e-4,
            checkpoint={"every": 2},
            **keys,
        )
        tokens = folder / ("single" if unpaired else "pairs")
        return stage_job(
            spec,
            folder,
            adapter=adapter,
            tokens=((tokens,),),
            heldout=(tokens.with_name(f"{tokens.name}-heldout"),),
            max_length=96,
            end_ids=end_ids(tokenizer),
        )

    return make


def _apart(pair: TokenExample) -> list[TokenExample]:
    """A pair's answers as records of their own, the first one good."""
    return [
        TokenExample(ids, mask, np.array([len(ids)]), np.array([value], np.float32))
        for ids, mask, value in zip(pair.parts, pair.part_masks, (1.0, 0.0), strict=True)
    ]
