"""Weights rounded to integers: nothing is trained, rank 0 quantises while the others wait for the artifact."""

from fettle.train.job import GroupMember, QuantizeJob


def quantize(job: QuantizeJob, member: GroupMember) -> None:
    """Rank 0 writes the artifact, for which the others wait as they do after every stage."""
    if member.rank != 0:
        return
    # Here, because the driver names this function and needs neither PEFT nor compressed-tensors.
    from fettle.models.quantize import write_quantized

    write_quantized(
        job.artifact,
        job.base,
        job.adapter,
        bits=job.spec.bits,
        group=job.spec.group_size,
        name=job.name,
        fingerprint=job.fingerprint,
        end_ids=job.end_ids,
        chat_template=job.chat_template,
        may_commit=member.fence.check,
        recipe=job.recipe,
    )
