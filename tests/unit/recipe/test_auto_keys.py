"""Keys that say `auto`: which may, and what stands there until something is measured."""

from __future__ import annotations

import pytest

from fettle.errors import UserError
from fettle.recipe.load import varied

ALL = """
name: measured
cluster: {precision: auto}
stages:
  - {name: teach, kind: sft, data: a.jsonl, packing: auto, attention: auto, gradient_checkpointing: auto,
     batch: {sequences: 16, accumulate: auto}}
  - {name: more, kind: sft, data: a.jsonl, cluster: {precision: auto}}
"""


def test_keys_that_say_auto_have_their_defaults_and_are_named(load) -> None:
    recipe = load(ALL)

    assert recipe.autos == (
        "cluster.precision",
        "stages.teach.packing",
        "stages.teach.attention",
        "stages.teach.gradient_checkpointing",
        "stages.teach.batch.accumulate",
        "stages.more.cluster.precision",
    )
    assert (recipe.cluster.precision, recipe.stages[0].packing, recipe.stages[0].batch.accumulate) == (None, None, 1)


def test_a_value_laid_over_an_auto_takes_its_place(load) -> None:
    recipe = varied(load(ALL), {"stages.teach.batch.accumulate": 4, "cluster.precision": "bf16"})

    assert recipe.stages[0].batch.accumulate == 4 and recipe.cluster.precision == "bf16"
    assert "stages.teach.batch.accumulate" not in recipe.autos and "stages.teach.packing" in recipe.autos


@pytest.mark.parametrize("key", ["lr: auto", "max_length: auto", "adapter: {kind: lora, r: auto}"])
def test_no_other_key_may(load, key: str) -> None:
    with pytest.raises(UserError, match="auto"):
        load(f"name: none\nstages: [{{name: teach, kind: sft, data: a.jsonl, {key}}}]\n")


def test_flash_attention_without_gpus_is_told(load) -> None:
    with pytest.raises(UserError, match="GPUs alone") as told:
        load("name: none\nstages: [{name: teach, kind: sft, data: a.jsonl, attention: flash}]\n")

    assert told.value.field == "stages.teach.attention" and told.value.line == 2
