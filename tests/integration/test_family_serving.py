"""Merged models and adapters of three families in vLLM, as `fettle serve` resolves them; all others are in
`benchmarks/families.py`, whose table is docs/families.md."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from family_runs import PROMPTS, FamilyRun, serve_scores
from fettle.engine.env import EngineOptions, device, prepare_process
from fettle.errors import UserError

pytestmark = pytest.mark.skipif(device() != "cpu", reason="float32 is the CPU's; GPUs are compared in bfloat16")
ADDED = ("Zephyrion", "Quillabee")  # tokens 2048 and 2049


@pytest.fixture(scope="module", autouse=True)
def environment() -> Iterator[None]:
    """What prepare_process sets is for a process of its own; other tests get theirs back."""
    before = dict(os.environ)
    prepare_process(EngineOptions())
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.parametrize("family", ["gpt2", "bloom"])
def test_a_family_without_lora_in_vllm_is_served_merged_and_its_adapter_refused(family: str, tmp_path: Path) -> None:
    run = FamilyRun(family, tmp_path / "run")
    adapter = run.stage("sft", lora=True)
    merged = run.merge(adapter)

    with pytest.raises(UserError, match=rf"(?s)vLLM applies no adapters to models of type {family}.*fettle merge"):
        serve_scores(adapter, [])
    serve_scores(merged, run.scores(merged))


@pytest.mark.parametrize("told", [{"vocab_size": 2112}, {"added": ADDED}], ids=["padded vocabulary", "added tokens"])
def test_adapter_and_merged_model_answer_alike(told: dict, tmp_path: Path) -> None:
    run = FamilyRun("qwen3", tmp_path / "run", **told)
    adapter = run.stage("sft", lora=True)
    merged = run.merge(adapter)
    prompts = [*PROMPTS, [9, 2047, 11, 2048, 12, 2049, 13]]  # the last rows: empty ones, or those of added tokens

    wanted = run.scores(merged, prompts)

    serve_scores(merged, wanted, prompts)
    serve_scores(adapter, wanted, prompts)
