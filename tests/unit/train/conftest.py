"""What trains small enough to do in a test: a fence, a model of two layers, a job."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from fettle.data.batches import Encoded
from fettle.data.tokens import write_tokens
from fettle.recipe.adapter import FULL
from fettle.recipe.kinds import SftStage
from fettle.train.checkpoint import Fence
from fettle.train.job import StageJob

MakeJob = Callable[..., StageJob]


@pytest.fixture
def fence(tmp_path: Path) -> Fence:
    """The fence of the run that is going on."""
    (tmp_path / ".epoch").write_text("first")
    return Fence(tmp_path / ".epoch", "first")


@pytest.fixture
def make_job(tmp_path: Path) -> MakeJob:
    """`make_job(*sources, heldout_set=None, weights=None, seed=0, name="task", **keys of the stage)`."""

    def make(
        *sources: list[Encoded],
        heldout_set: list[Encoded] | None = None,
        weights: tuple[float, ...] | None = None,
        seed: int = 0,
        name: str = "task",
        **keys: Any,
    ) -> StageJob:
        folders = [tmp_path / "tokens" / f"{name}-{number}" for number in range(len(sources))]
        for folder, examples in zip(folders, sources, strict=True):
            write_tokens(folder, examples)
        if heldout_set is not None:
            write_tokens(tmp_path / "tokens" / f"{name}-heldout", heldout_set)
        told = {"name": name, "kind": "sft", "data": "x.jsonl"} | keys
        return StageJob(
            name=name,
            fingerprint="f" * 64,
            spec=TypeAdapter(SftStage).validate_python(told),
            adapter=FULL,
            seed=seed,
            base=tmp_path / "base",
            from_adapter=None,
            tokens=tuple((folder,) for folder in folders),
            streams=(),
            weights=weights or (1.0,) * len(sources),
            heldout=(tmp_path / "tokens" / f"{name}-heldout",) if heldout_set is not None else (),
            max_length=64,
            precision="fp32",
            folder=tmp_path / "stages" / name,
            artifact=tmp_path / "artifacts" / name,
            recipe="r",
            data=(),
            end_ids=(0,),
            pad_id=0,
        )

    return make
