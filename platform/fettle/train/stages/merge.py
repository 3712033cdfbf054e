"""Adapters into full weights: nothing is trained, rank 0 merges while the others wait for the artifact."""

from fettle.train.job import GroupMember, MergeJob


def merge(job: MergeJob, member: GroupMember) -> None:
    """Rank 0 writes the artifact, for which the others wait as they do after every stage."""
    if member.rank != 0:
        return
    # Here, because the driver names this function and needs none of PEFT: 5 s of imports.
    from fettle.models.merge import Combination, write_merged

    adapters, weights = tuple(one for one, _ in job.adapters), tuple(weight for _, weight in job.adapters)
    write_merged(
        job.artifact,
        Combination(job.base, adapters, weights, job.method, job.density, job.seed),
        name=job.name,
        fingerprint=job.fingerprint,
        end_ids=job.end_ids,
        chat_template=job.chat_template,
        may_commit=member.fence.check,
        recipe=job.recipe,
        search=job.search,
    )
