"""`kind: rl` on a worker group: everything made and joined, trained, and taken down again."""

from __future__ import annotations

from fettle.rl.job import RlJob
from fettle.train.job import GroupMember


def rl(job: RlJob, member: GroupMember) -> None:
    """Trains the stage on this worker; rank 0 has the engines and writes the artifact."""
    # Here, because the driver names this function and needs none of the trainer: 5 s of imports.
    from fettle.rl.assembly import RlLoop
    from fettle.train.stage import train_stage

    loop = RlLoop(job, member)
    try:
        train_stage(job, member, loop.task, loop=loop)
    finally:
        loop.close()
