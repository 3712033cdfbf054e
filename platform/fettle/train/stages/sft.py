"""Supervised fine-tuning: next-token loss on the answers only."""

from fettle.train.job import GroupMember, StageJob


def sft(job: StageJob, member: GroupMember) -> None:
    """Trains the stage on this worker; rank 0 writes the artifact."""
    # Here, because the driver names this function and needs none of the trainer: 5 s of imports.
    from fettle.train.causal import train_causal

    train_causal(job, member)
