"""Supervised fine-tuning: next-token loss on the answers only."""

from typing import Any

from fettle.recipe.kinds import SftStage
from fettle.train.job import GroupMember, StageJob, Teacher


def sft(job: StageJob, member: GroupMember) -> None:
    """Trains the stage on this worker; rank 0 writes the artifact."""
    # Here, because the driver names this function and needs none of the trainer: 5 s of imports.
    from fettle.models.family import family_of
    from fettle.train.causal import CausalTask
    from fettle.train.seq2seq import Seq2SeqTask
    from fettle.train.stage import train_stage

    spec = job.spec
    assert isinstance(spec, SftStage)
    rows: Any = {"max_length": job.max_length, "packing": job.packing, "pad_id": job.pad_id}
    if spec.kl_to_base is not None:
        from fettle.train.distill import NearBaseTask, load_teacher

        assert job.near is not None
        base = load_teacher(Teacher(base=job.near), job.precision)
        train_stage(job, member, NearBaseTask(spec.kl_to_base, base, precision=job.precision, **rows))
        return
    if family_of(job.base) == "seq2seq":
        train_stage(job, member, Seq2SeqTask(pad_id=job.pad_id))
        return
    train_stage(job, member, CausalTask(**rows, neftune=spec.neftune))
