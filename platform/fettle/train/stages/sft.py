"""Supervised fine-tuning: next-token loss on the answers only."""

from fettle.train.causal import train_causal
from fettle.train.job import GroupMember, StageJob


def sft(job: StageJob, member: GroupMember) -> None:
    """Trains the stage on this worker; rank 0 writes the artifact."""
    train_causal(job, member)
