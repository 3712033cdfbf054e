"""What can be known to fail before anything starts: CPUs, disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from fettle.errors import DoesNotFit, UserError
from fettle.recipe import Recipe
from fettle.recipe.cluster import ClusterSpec
from fettle.recipe.rl import RlStage
from fettle.recipe.stages import StageBase

# A checkpoint under full training holds float32 weights and two Adam moments; the base lies in two bytes or more.
_CHECKPOINT_TIMES_BASE = 6
_SPARE_BYTES = 256 << 20


def check_cpus(recipe: Recipe, stage: StageBase, cluster: ClusterSpec) -> None:
    """Raises DoesNotFit where the stage's workers want more CPUs than this machine has.

    Only where the run starts a cluster of its own; one it joins is asked after connecting.
    """
    if os.environ.get("RAY_ADDRESS"):
        return
    there = os.cpu_count() or 1
    if isinstance(stage, RlStage) and (beside := stage.cpus_beside(cluster)):
        _check_room_beside(recipe, stage, cluster, beside, there)
    if cluster.fewest * cluster.cpus_per_worker > there:
        # Fewer workers help unless a single one is too large.
        key, most = "workers", there // cluster.cpus_per_worker
        if most == 0:
            key, most = "cpus_per_worker", max(1, there // cluster.fewest)
        field = f"stages.{stage.name}.cluster.{key}" if stage.cluster else f"cluster.{key}"
        raise DoesNotFit(
            f"{cluster.fewest} workers of {cluster.cpus_per_worker} CPU(s) are more than this machine's {there} CPUs",
            **recipe.where(field),
            fix=f"at most {key}: {most}, or set RAY_ADDRESS to a larger cluster",
        )


def _check_room_beside(recipe: Recipe, stage: RlStage, cluster: ClusterSpec, beside: int, there: int) -> None:
    """Raises DoesNotFit where workers and the engines that run at the same time want more CPUs than there are."""
    own = cluster.fewest * cluster.cpus_per_worker
    if own + beside > there:
        raise DoesNotFit(
            f"{own} CPU(s) of workers and {beside} of engines that generate at the same time are more than this"
            f" machine's {there} CPUs",
            **recipe.where(f"stages.{stage.name}.max_staleness"),
            fix="max_staleness: 0, so that they take turns; fewer workers or engines; or a larger cluster",
        )


def check_disk(out: Path, bases: Sequence[tuple[Path, int | None]]) -> None:
    """Raises DoesNotFit where `out`'s disk has no room for the stages' checkpoints and artifacts, UserError where it
    may not be written to.

    bases: (folder of the weights a stage trains, checkpoints it keeps; None where it makes none), one pair a stage
    still to run.
    """
    wanted = _SPARE_BYTES if bases else 0
    for folder, keep in bases:
        size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        # One more is on disk while the next is written; a stage's checkpoints go when its artifact is there.
        if keep is not None:
            wanted = max(wanted, _SPARE_BYTES + size * _CHECKPOINT_TIMES_BASE * (keep + 1))
        wanted += size
    existing = next(folder for folder in (out, *out.parents) if folder.exists())
    if not os.access(existing, os.W_OK):
        raise UserError(
            f"{existing} may not be written to", field="--out", fix="name another folder, or let it be written to"
        )
    free = shutil.disk_usage(existing).free
    if wanted > free:
        raise DoesNotFit(
            f"the run may need {wanted / 2**30:.1f} GiB under {out}, and {free / 2**30:.1f} GiB are free",
            field="--out",
            fix="make room, name another folder with --out, or keep fewer checkpoints (checkpoint.keep)",
        )
