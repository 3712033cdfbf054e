"""Preferences: dpo, cdpo, ipo, kto, orpo and simpo."""

from fettle.recipe.kinds import PreferenceStage
from fettle.train.job import GroupMember, StageJob


def preference(job: StageJob, member: GroupMember) -> None:
    """Trains the stage on this worker; rank 0 writes the artifact."""
    # Here, because the driver names this function and needs none of the trainer: 5 s of imports.
    from fettle.train.preference import PreferenceTask
    from fettle.train.stage import train_stage

    assert isinstance(job.spec, PreferenceStage)
    task = PreferenceTask(
        job.spec,
        folder=job.folder,
        fence=member.fence,
        max_length=job.max_length,
        packing=job.packing,
        pad_id=job.pad_id,
        is_fresh=job.is_fresh,
    )
    train_stage(job, member, task)
