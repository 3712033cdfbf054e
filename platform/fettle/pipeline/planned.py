"""What a plan is made of: stages with everything resolved, and the sources of their records."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fettle.artifact import is_artifact, library_versions
from fettle.data.sources import OpenSource
from fettle.models.licences import licences_beside
from fettle.models.precision import instruction_set
from fettle.pipeline.origin import Origin
from fettle.recipe.adapter import AdapterSpec
from fettle.recipe.cluster import ClusterSpec, Precision
from fettle.recipe.merge import MergeStage
from fettle.recipe.quantize import QuantizeStage
from fettle.recipe.rl import RlStage
from fettle.recipe.stages import LearningStage, StageBase, TrainingStage


@dataclass(frozen=True)
class PlannedSource:
    """One source of a stage's records. contents: of each file, its suffix and the digest of what is in it.

    reading: hash of how the files are read.
    """

    field: str
    opened: OpenSource
    weight: float
    contents: tuple[str, ...]
    reading: str

    @property
    def digest(self) -> str:
        """Of all that decides its records."""
        return hash_of([self.contents, self.reading])

    @property
    def licences(self) -> tuple[str, ...]:
        """Under which it may be used, as the recipe says, or a card beside its files."""
        told = self.opened.spec.licence
        return (told,) if told is not None else licences_beside(self.opened.files)


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A stage of any kind, ready to run. origin: what it begins from; of several adapters the first."""

    spec: StageBase
    cluster: ClusterSpec
    origin: Origin
    precision: Precision
    fingerprint: str
    folder: Path
    artifact: Path

    @property
    def is_done(self) -> bool:
        """Whether its artifact is there already."""
        return is_artifact(self.artifact)

    def result(self) -> Origin:
        """What a later stage begins from: full weights."""
        return Origin(self.artifact, self.origin.root, self.fingerprint, chat_template=self.origin.chat_template)


@dataclass(frozen=True, kw_only=True)
class PlannedLearning(Planned):
    """A stage that changes weights, whatever it learns from."""

    spec: LearningStage
    adapter: AdapterSpec
    max_length: int

    @property
    def base(self) -> Path:
        """Full weights under the stage's adapter; where the earlier adapter is merged first, the merged ones."""
        merges = self.spec.merge_first and self.origin.adapter is not None
        return self.folder / "merged" if merges and self.adapter.is_beside else self.origin.base

    def result(self) -> Origin:
        """What a later stage begins from: full weights, or the same base under this stage's adapter."""
        if not self.adapter.is_beside:
            return super().result()
        return replace(
            self.origin, base=self.base, identity=self.fingerprint, adapter=self.artifact, adapter_spec=self.adapter
        )


@dataclass(frozen=True, kw_only=True)
class PlannedStage(PlannedLearning):
    """A stage that learns from records. teacher: of a distillation."""

    spec: TrainingStage
    sources: tuple[PlannedSource, ...]
    heldout: PlannedSource | None
    teacher: Origin | None = None


@dataclass(frozen=True, kw_only=True)
class PlannedRl(PlannedLearning):
    """A stage of reinforcement learning. models: the reward models' folders, by what the recipe calls them. critic: the
    folder that the critic begins as. code: of the user's functions, each with its file's digest."""

    spec: RlStage
    prompts: tuple[PlannedSource, ...]
    heldout: PlannedSource | None
    models: tuple[tuple[str, Path], ...]
    critic: Path | None
    code: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, kw_only=True)
class PlannedMerge(Planned):
    """A stage that merges adapters of one base. adapters: each with its weight; none where it begins from full weights,
    which it interpolates. probe: by which it does."""

    spec: MergeStage
    adapters: tuple[tuple[Path, float], ...]
    probe: PlannedSource | None = None


@dataclass(frozen=True, kw_only=True)
class PlannedQuantize(Planned):
    """A stage that rounds weights for serving; an adapter it begins from is merged first."""

    spec: QuantizeStage


def hash_of(value: Any) -> str:
    """Hexadecimal sha256 of what JSON makes of a value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def what_decides(
    seed: int, origin: Origin, adapter: AdapterSpec, cluster: ClusterSpec, precision: Precision, max_length: int
) -> dict[str, Any]:
    """Of a fingerprint what every stage that changes weights depends on beside its keys and what it learns from."""
    return {
        "adapter": adapter.model_dump(mode="json"),
        # How many workers there are, and how they share the model out, is left out: a stage goes on with others.
        "cluster": cluster.model_dump(mode="json", include={"cpus_per_worker", "gpus_per_worker", "offload"}),
        "precision": precision,
        "instructions": instruction_set(),
        "origin": origin.identity,
        "chat_template": origin.chat_template,
        "max_length": max_length,
        "seed": seed,
        "versions": library_versions(),
    }
