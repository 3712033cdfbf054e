"""Supervised fine-tuning: next-token loss on the answers only."""

from fettle.recipe.kinds import SftStage
from fettle.train.job import GroupMember, StageJob


def sft(job: StageJob, member: GroupMember) -> None:
    """Trains the stage on this worker; rank 0 writes the artifact."""
    # Here, because the driver names this function and needs none of the trainer: 5 s of imports.
    from fettle.train.causal import CausalTask
    from fettle.train.stage import train_stage

    spec = job.spec
    assert isinstance(spec, SftStage)
    task = CausalTask(max_length=job.max_length, packing=spec.packing, pad_id=job.pad_id, neftune=spec.neftune)
    train_stage(job, member, task)
