"""What the driver hands a worker group: plain, picklable descriptions of its stages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fettle.data.line_index import StreamedSource
from fettle.data.sources import OpenSource
from fettle.models.interpolate import Search
from fettle.models.packed import why_not_packed
from fettle.models.shared import KeptBases
from fettle.recipe.adapter import AdapterSpec
from fettle.recipe.cluster import ClusterSpec, Precision
from fettle.recipe.merge import MergeStage, Method
from fettle.recipe.quantize import QuantizeStage
from fettle.recipe.stages import LearningStage, StageBase, TrainingStage
from fettle.train.checkpoint import Fence
from fettle.train.progress import PROGRESS


@dataclass(frozen=True, kw_only=True)
class Job:
    """One stage of any kind, with everything resolved that the recipe leaves open.

    base: folder of full weights. folder: checkpoints and progress. artifact: where the result goes. end_ids: token ids
    at which generation stops. chat_template: text of one in place of the tokenizer's.
    """

    name: str
    fingerprint: str
    spec: StageBase
    seed: int
    base: Path
    folder: Path
    artifact: Path
    recipe: str
    end_ids: tuple[int, ...]
    chat_template: str | None = None

    def beside(self, cluster: ClusterSpec) -> tuple[int, int]:
        """CPUs and GPUs that it takes beside those of its workers."""
        return 0, 0

    @property
    def progress(self) -> Path:
        """The file its steps are written to."""
        return self.folder / PROGRESS


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """What a student learns from. base: folder of full weights; adapter: one over them, which is merged.

    Where the teacher answers before the student learns: answers: the folder they are written to. prompts: the sources
    it answers, `data` of the recipe, and heldout_prompts: that of the held-out ones. end_ids: token ids at which it
    stops. chat_template: text of one in place of its tokenizer's.
    """

    base: Path
    adapter: Path | None = None
    answers: Path | None = None
    prompts: tuple[OpenSource, ...] = ()
    heldout_prompts: OpenSource | None = None
    end_ids: tuple[int, ...] = ()
    chat_template: str | None = None


@dataclass(frozen=True, kw_only=True)
class LearnJob(Job):
    """One stage that changes weights, whatever it learns from.

    from_adapter: an adapter over the base to go on with (merge_first: to merge). data: of each source, its path and
    digest. data_licences: of each, its path and the licences that are told. pad_id: the one that fills rows. rounds:
    parts after each of which it waits to be told to go on (rounds.py); None of a stage that is no trial.
    """

    spec: LearningStage
    adapter: AdapterSpec
    from_adapter: Path | None
    max_length: int
    precision: Precision
    data: tuple[tuple[str, str], ...]
    pad_id: int
    data_licences: tuple[tuple[str, tuple[str, ...]], ...] = ()
    rounds: int | None = None

    @property
    def packing(self) -> bool:
        """Whether several records lie in one row: as the recipe says, else wherever the model and the adapter can."""
        told = self.spec.packing
        return why_not_packed(self.base, self.adapter) is None if told is None else told

    @property
    def is_fresh(self) -> bool:
        """Whether the stage has an adapter that it did not receive: without it, the model is what it received."""
        return self.adapter.is_beside and (self.from_adapter is None or self.spec.merge_first)

    @property
    def save_every(self) -> int:
        """Optimizer steps between two checkpoints."""
        return self.spec.checkpoint.every

    @property
    def saves_after(self) -> int:
        """The stage can be gone on from after so many steps, and after twice as many, …"""
        return 1

    @property
    def learned_from(self) -> tuple[Path, ...]:
        """Other models that it learns from: folders."""
        return ()


@dataclass(frozen=True, kw_only=True)
class StageJob(LearnJob):
    """One stage that learns from records.

    tokens: the folders of each encoded source, in the recipe's order, with their weights. streams: instead of them,
    sources to be encoded while training. heldout: folders of the held-out examples, or none for a share of the first
    source. labels: of a classifier, in the order of its head's rows. teacher: of a distillation; where it answers,
    `tokens` are of the replayed sources alone. near: folder of the model that it is held to.
    """

    spec: TrainingStage
    tokens: tuple[tuple[Path, ...], ...]
    streams: tuple[StreamedSource, ...]
    weights: tuple[float, ...]
    heldout: tuple[Path, ...]
    labels: tuple[str, ...] = ()
    teacher: Teacher | None = None
    near: Path | None = None

    @property
    def learned_from(self) -> tuple[Path, ...]:
        """The teacher."""
        return (self.teacher.adapter or self.teacher.base,) if self.teacher is not None else ()


@dataclass(frozen=True, kw_only=True)
class MergeJob(Job):
    """Adapters over the base to merge, each with its weight; method, density and seed tell how several become one. None
    are full weights. search: how near to the untuned weights the result is to lie."""

    spec: MergeStage
    adapters: tuple[tuple[Path, float], ...]
    method: Method
    density: float
    search: Search | None = None


@dataclass(frozen=True, kw_only=True)
class QuantizeJob(Job):
    """The base whose weights are rounded for serving. adapter: one over it to merge first."""

    spec: QuantizeStage
    adapter: Path | None


@dataclass(frozen=True)
class GroupMember:
    """One worker's place in its group. is_leaving: asks Ray, together with all other workers, whether it is about to
    take a machine away. bases: where frozen weights are kept for the next stage of this process."""

    rank: int
    world: int
    cluster: ClusterSpec
    fence: Fence
    is_leaving: Callable[[], bool] | None = None
    bases: KeptBases | None = None


StageFunction = Callable[[Any, GroupMember], None]
"""Of a job of its own kind: StageJob, RlJob, MergeJob, or QuantizeJob."""
