"""What the driver hands a worker group: plain, picklable descriptions of its stages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fettle.recipe.adapter import AdapterSpec
from fettle.recipe.cluster import ClusterSpec
from fettle.recipe.stages import PretrainStage, SftStage
from fettle.train.checkpoint import Fence


@dataclass(frozen=True)
class StageJob:
    """One stage, with everything resolved that the recipe leaves open.

    base: folder of full weights. from_adapter: an adapter over them to go on with (merge_first: to merge). tokens: the
    encoded sources, in the recipe's order, with their weights. heldout: an encoded set of its own, or None for a share
    of the first source. folder: checkpoints and progress. artifact: where the result goes. end_ids: token ids at which
    generation stops.
    """

    name: str
    fingerprint: str
    spec: PretrainStage | SftStage
    adapter: AdapterSpec
    seed: int
    base: Path
    from_adapter: Path | None
    tokens: tuple[Path, ...]
    weights: tuple[float, ...]
    heldout: Path | None
    max_length: int
    precision: Literal["fp32", "bf16"]
    folder: Path
    artifact: Path
    recipe: str
    data: tuple[tuple[str, str], ...]
    end_ids: tuple[int, ...]

    @property
    def progress(self) -> Path:
        """The file its steps are written to."""
        return self.folder / "progress.jsonl"


@dataclass(frozen=True)
class GroupMember:
    """One worker's place in its group."""

    rank: int
    world: int
    cluster: ClusterSpec
    fence: Fence


StageFunction = Callable[[StageJob, GroupMember], None]
