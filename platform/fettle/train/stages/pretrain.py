"""Pre-training on raw text: the next token, or tokens that are hidden."""

from typing import Any

from fettle.recipe.kinds import PretrainStage
from fettle.train.job import GroupMember, StageJob, Teacher


def pretrain(job: StageJob, member: GroupMember) -> None:
    """Trains the stage on this worker; rank 0 writes the artifact."""
    # Here, because the driver names this function and needs none of the trainer: 5 s of imports.
    from fettle.models.base import load_tokenizer
    from fettle.train.causal import CausalTask
    from fettle.train.masked import MaskedTask
    from fettle.train.seq2seq import Seq2SeqTask
    from fettle.train.spans import SpanCorruption, sentinels_of
    from fettle.train.stage import train_stage

    spec = job.spec
    assert isinstance(spec, PretrainStage)
    rows: Any = {"max_length": job.max_length, "packing": job.packing, "pad_id": job.pad_id}
    if spec.kl_to_base is not None:
        from fettle.train.distill import NearBaseTask, load_teacher

        assert job.near is not None
        base = load_teacher(Teacher(base=job.near), job.precision)
        train_stage(job, member, NearBaseTask(spec.kl_to_base, base, precision=job.precision, **rows))
    elif spec.objective == "masked":
        train_stage(job, member, MaskedTask(rate=spec.mask_rate or 0.15, seed=job.seed, **rows))
    elif spec.objective == "span":
        tokenizer = load_tokenizer(job.base, job.chat_template)
        spans = SpanCorruption(
            rate=spec.mask_rate or 0.15,
            mean_span=spec.mean_span or 3.0,
            sentinels=sentinels_of(tokenizer),
            end_id=int(tokenizer.eos_token_id),
            seed=job.seed,
        )
        train_stage(job, member, Seq2SeqTask(pad_id=job.pad_id, corruption=spans))
    else:
        train_stage(job, member, CausalTask(**rows))
