"""A stage alone, as a worker is handed it: what benchmarks of training have in common."""

from __future__ import annotations

from pathlib import Path

from fettle.recipe.adapter import FULL, AdapterSpec
from fettle.recipe.cluster import Precision
from fettle.recipe.stages import TrainingStage
from fettle.train.job import StageJob


def job_of(
    spec: TrainingStage,
    folder: Path,
    tokens: Path,
    base: Path,
    *,
    max_length: int,
    adapter: AdapterSpec = FULL,
    precision: Precision = "fp32",
) -> StageJob:
    """Of encoded records in `tokens`, without held-out ones of their own; what it makes lies below `folder`."""
    return StageJob(
        name=spec.name,
        fingerprint=spec.name,
        spec=spec,
        adapter=adapter,
        seed=0,
        base=base,
        from_adapter=None,
        tokens=((tokens,),),
        streams=(),
        weights=(1.0,),
        heldout=(),
        max_length=max_length,
        precision=precision,
        folder=folder / "stage",
        artifact=folder / "artifact",
        recipe="",
        data=(),
        end_ids=(0,),
        pad_id=0,
    )
