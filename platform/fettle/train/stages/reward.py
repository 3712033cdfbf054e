"""Reward models: of two answers the preferred one scores higher."""

from fettle.recipe.kinds import RewardStage
from fettle.train.job import GroupMember, StageJob


def reward(job: StageJob, member: GroupMember) -> None:
    """Trains the stage on this worker; rank 0 writes the artifact."""
    # Here, because the driver names this function and needs none of the trainer: 5 s of imports.
    from fettle.train.reward import RewardTask
    from fettle.train.stage import train_stage

    spec = job.spec
    assert isinstance(spec, RewardStage)
    task = RewardTask(
        max_length=job.max_length,
        packing=job.packing,
        pad_id=job.pad_id,
        margin=spec.margin,
        centre=spec.centre,
        seed=job.seed,
    )
    train_stage(job, member, task)
