"""What an earlier attempt has left of the stages that are to be trained, in words."""

from __future__ import annotations

from collections.abc import Sequence

from fettle.pipeline.planned import Planned, PlannedLearning
from fettle.train.checkpoint import Checkpoints, Fence


def underway(waiting: Sequence[Planned], fence: Fence) -> list[str]:
    """Of each stage that was begun: which step it goes on from, and why from no later one; and of those that begin anew
    although an attempt under other settings was under way."""
    return [note for stage in waiting for note in (*_goes_on(stage, fence), *_begins_anew(stage))]


def _goes_on(stage: Planned, fence: Fence) -> list[str]:
    if not isinstance(stage, PlannedLearning):
        return []
    said: list[str] = []
    checkpoints = Checkpoints(stage.folder / "checkpoints", stage.fingerprint, stage.spec.checkpoint.keep, fence)
    latest = checkpoints.latest(said.append)
    notes = [f"{stage.spec.name}: {note}" for note in said]
    if latest is not None:
        notes.append(f"{stage.spec.name}: goes on from step {latest[0]:,}")
    elif said:
        notes.append(f"{stage.spec.name}: begins anew; there is no earlier checkpoint")
    return notes


def _begins_anew(stage: Planned) -> list[str]:
    name = stage.spec.name
    return [
        f"{name}: begins anew; {other.name}, interrupted under other settings, is kept and not used"
        for other in sorted(stage.folder.parent.glob(f"{name}-{'?' * 12}"))
        if other != stage.folder and any(other.glob("checkpoints/step-*"))
    ]
