"""Text classification: cross-entropy of a head at each text's last token."""

from fettle.recipe.kinds import ClassifyStage
from fettle.train.job import GroupMember, StageJob


def classify(job: StageJob, member: GroupMember) -> None:
    """Trains the stage on this worker; rank 0 writes the artifact."""
    # Here, because the driver names this function and needs none of the trainer: 5 s of imports.
    from fettle.train.classify import ClassifyTask
    from fettle.train.param_groups import LayerRates
    from fettle.train.stage import train_stage

    spec = job.spec
    assert isinstance(spec, ClassifyStage)
    rates = LayerRates(spec.unfreeze, spec.layer_decay)
    task = ClassifyTask(
        job.labels, rates, max_length=job.max_length, packing=job.packing, pad_id=job.pad_id, seed=job.seed
    )
    train_stage(job, member, task, rates if rates != LayerRates() else None)
