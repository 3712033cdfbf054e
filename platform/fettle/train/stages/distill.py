"""Distillation: the student's next-token distributions towards the teacher's, or its answers as the teacher's."""

from typing import Any

from fettle.recipe.distill import DistillStage
from fettle.train.job import GroupMember, StageJob


def distill(job: StageJob, member: GroupMember) -> None:
    """Trains the stage on this worker; rank 0 writes the artifact."""
    # Here, because the driver names this function and needs none of the trainer: 5 s of imports.
    from fettle.train.answers import answered
    from fettle.train.causal import CausalTask
    from fettle.train.distill import DistillTask, load_teacher
    from fettle.train.stage import train_stage

    spec, teacher = job.spec, job.teacher
    assert isinstance(spec, DistillStage) and teacher is not None
    rows: Any = {"max_length": job.max_length, "packing": job.packing, "pad_id": job.pad_id}
    if spec.loss == "answers":
        train_stage(answered(job, member), member, CausalTask(**rows))
        return
    model = load_teacher(teacher, job.precision)
    train_stage(job, member, DistillTask(spec, model, precision=job.precision, **rows))
