"""Continued pre-training on raw text: next-token loss on every token."""

from fettle.train.causal import train_causal
from fettle.train.job import GroupMember, StageJob


def pretrain(job: StageJob, member: GroupMember) -> None:
    """Trains the stage on this worker; rank 0 writes the artifact."""
    train_causal(job, member)
