"""The parity gate on a real engine: an adapter that is served as it was trained, and adapters that would not be.

One process with two engine starts, 20 s; what is broken is found before an engine starts.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from fettle.data.sources import open_source
from fettle.pipeline.parity import parity
from fettle.pipeline.parity_prompts import prompts_of
from fettle.recipe.data import DataSpec
from fettle.recipe.publish import ParitySpec


@pytest.fixture
def asked(root: Path, tmp_path: Path) -> dict[str, Any]:
    source = open_source(DataSpec(path=str(root / "recipes/northline/heldout.jsonl")), Path, field="data")
    return {"prompts": prompts_of(source), "data": "heldout.jsonl", "log": tmp_path / "parity.log"}


def test_an_adapter_answers_in_vllm_as_it_was_trained(
    tiny: Path, loras: dict[str, Path], asked: dict[str, Any], tmp_path: Path
) -> None:
    said: list[str] = []
    folder = shutil.copytree(loras["polite"], tmp_path / "polite")
    keys = asked | {"trained": (tiny, None), "kept": tmp_path / "kept", "say": said.append}

    found = parity(folder, spec=ParitySpec(), **keys)
    again = parity(folder, spec=ParitySpec(max_logprob_difference=1e-9), **keys)

    assert found is not None and again is not None and found.is_met
    adapter, merged = found.ways
    assert (adapter.name, adapter.dtype, adapter.numbers) == ("adapter on vLLM", "float32", "float32")
    assert 0 < adapter.largest < 1e-4 < merged.largest < 0.2  # of the merged one the weights were rounded to bfloat16
    assert adapter.agreement == 1 and adapter.answers_alike == 8 and merged.numbers == "rounded"
    # The same numbers under another bound: nothing is computed again.
    assert not again.is_met and again.ways[0].largest == adapter.largest and len(said) == 1
    assert "rounded when it was merged" in again.why_not and not list(tmp_path.glob(".parity-*"))


def test_an_adapter_with_another_template_than_it_was_trained_with_is_refused(
    tiny: Path, loras: dict[str, Path], asked: dict[str, Any]
) -> None:
    found = parity(loras["brief"], spec=ParitySpec(), trained=(tiny, None), **asked)  # its folder has one of its own

    assert found is not None and not found.is_met and found.ways == ()
    assert "likely cause: the chat template: it was trained with" in found.why_not
