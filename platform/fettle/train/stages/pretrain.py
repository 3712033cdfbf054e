"""Continued pre-training on raw text: next-token loss on every token."""

from fettle.train.job import GroupMember, StageJob


def pretrain(job: StageJob, member: GroupMember) -> None:
    """Trains the stage on this worker; rank 0 writes the artifact."""
    # Here, because the driver names this function and needs none of the trainer: 5 s of imports.
    from fettle.train.causal import CausalTask
    from fettle.train.stage import train_stage

    train_stage(job, member, CausalTask(max_length=job.max_length, packing=job.spec.packing, pad_id=job.pad_id))
