"""Training one stage on one worker: what all kinds of stages share."""

from __future__ import annotations

import gc
from pathlib import Path

import torch
from accelerate.state import AcceleratorState, GradientState
from peft import PeftModel
from transformers import PreTrainedModel, TrainerCallback

from fettle.artifact import is_artifact, library_versions, new_artifact, read_artifact
from fettle.errors import UserError
from fettle.models import adapters
from fettle.models.base import digest_of, dtype_of, load_tokenizer, load_weights
from fettle.models.layers import freeze_below
from fettle.models.stored import Quantised
from fettle.train.checkpoint import Checkpoints, wait_for
from fettle.train.curriculum import Curriculum, StepsUnderway, curriculum, read_cursor
from fettle.train.early import EarlyStopping
from fettle.train.job import GroupMember, StageJob
from fettle.train.lisa import Lisa
from fettle.train.optimizers import adam_arguments
from fettle.train.param_groups import LayerRates
from fettle.train.publish import publish
from fettle.train.task import Task
from fettle.train.told import StageReport
from fettle.train.trainer import MicroBatches, StageTrainer, training_arguments
from fettle.train.zero import full_state, needs_engine, zero_config


def train_stage(job: StageJob, member: GroupMember, task: Task, rates: LayerRates | None = None) -> None:
    """Trains from the last complete checkpoint, if there is one, to the stage's artifact, which rank 0 writes.

    rates: of each layer, where they are not all the same.
    """
    lessons = curriculum(job, member.rank)
    checkpoints = Checkpoints(job.folder / "checkpoints", job.fingerprint, job.spec.checkpoint.keep, member.fence)
    latest = checkpoints.latest()
    steps = StepsUnderway(lessons, latest[0], read_cursor(latest[1])) if latest else StepsUnderway(lessons)
    early = _early(job, lessons, latest[1] if latest else None)
    if early is not None and early.has_ended:
        steps = StepsUnderway(lessons, lessons.num_steps)  # interrupted after that: what is left is to publish
    # With ZeRO 3 the arguments make from_pretrained shard what is loaded from then on, all workers together: after
    # them the stage's model, before them what one worker merges, or what has to be whole while it is merged.
    base = _merged_base(job, member, task)
    merged = None
    if not job.adapter.is_beside and job.from_adapter is not None:
        merged = adapters.merged(task.load(job.base, torch.float32), job.from_adapter, torch.float32)
    args = training_arguments(
        checkpoints.partial,
        max_steps=lessons.num_steps,
        learning_rate=job.spec.lr,
        **adam_arguments(job.spec.optimizer),
        max_grad_norm=job.spec.optimizer.max_grad_norm,
        gradient_accumulation_steps=job.spec.batch.accumulate,
        gradient_checkpointing=_checkpoints_gradients(job, member),
        save_steps=job.spec.checkpoint.every,
        seed=job.seed,
        use_cpu=member.cluster.gpus_per_worker == 0,
        deepspeed=zero_config(member.cluster) if needs_engine(member.cluster) else None,
    )
    tokenizer = load_tokenizer(base, job.chat_template)
    report = StageReport(job, steps, write=member.rank == 0)
    model = merged if merged is not None else _load(job, base, member, task)
    if rates is not None:
        rates.freeze(model)
    callbacks: list[TrainerCallback] = [report] if early is None else [early, report]
    callbacks += _choose_layers(job, model)
    trainer = StageTrainer(
        task=task,
        model=model,
        args=args,
        tokenizer=tokenizer,
        batches=MicroBatches(
            steps=steps,
            rank=member.rank,
            world=member.world,
            accumulate=job.spec.batch.accumulate,
            collate=task.collate,
            first=steps.start,
        ),
        steps=steps,
        optimizer=job.spec.optimizer,
        schedule=job.spec.schedule,
        checkpoints=checkpoints,
        precision=job.precision,
        rates=rates,
        lr_ratio=job.adapter.lr_ratio,
        early=early,
        callbacks=callbacks,
    )
    report.trainer = trainer
    if early is not None:
        early.trainer = trainer
    trainer.train(resume_from_checkpoint=str(latest[1]) if latest else None)
    state = full_state(trainer)
    if member.rank == 0:
        assert state is not None
        told = report.metrics() | (early.metrics() if early is not None else {})
        publish(job, base, member, trainer, tokenizer, state, told)
        checkpoints.clear()
    del trainer, report.trainer, state, merged, model, early, callbacks
    # accelerate keeps the process's engine and plugins in class attributes; the group's next stage has its own.
    AcceleratorState._reset_state()
    GradientState._reset_state()
    gc.collect()


def _early(job: StageJob, lessons: Curriculum, checkpoint: Path | None) -> EarlyStopping | None:
    if job.spec.early_stop is None:
        return None
    if not lessons.heldout:
        raise UserError(f"stages.{job.name}.early_stop: there is nothing to measure on; name heldout: {{data: FILE}}")
    return EarlyStopping(job.spec.early_stop, checkpoint)


def _checkpoints_gradients(job: StageJob, member: GroupMember) -> bool:
    told = job.spec.gradient_checkpointing
    # A layer that is computed again has lost the prefix's keys and values.
    by_default = member.cluster.gpus_per_worker > 0 and job.adapter.kind != "prefix"
    return by_default if told is None else told


def _choose_layers(job: StageJob, model: PreTrainedModel | PeftModel) -> list[TrainerCallback]:
    """Freezes what the adapter's kind keeps out of the training, for good or, with LISA, a few steps at a time."""
    spec = job.adapter
    if spec.kind == "freeze":
        assert spec.layers is not None
        freeze_below(model, spec.layers)
    if spec.kind != "lisa":
        return []
    assert isinstance(model, PreTrainedModel) and spec.layers is not None and spec.every is not None
    return [Lisa(model, count=spec.layers, every=spec.every, seed=job.seed)]


def _load(job: StageJob, base: Path, member: GroupMember, task: Task) -> PreTrainedModel | PeftModel:
    if not job.adapter.is_beside:
        return task.load(base, torch.float32)
    # Frozen weights may lie in bf16 where the arithmetic is bf16 anyway; ZeRO 3 wants one type (trl#6089).
    frozen = torch.bfloat16 if job.precision == "bf16" and member.cluster.zero < 3 else torch.float32
    bits = job.adapter.bits
    model = task.load(base, frozen if bits is None else Quantised(bits, frozen))
    if job.from_adapter is not None and not job.spec.merge_first:
        return adapters.resume(model, job.from_adapter)
    return adapters.attach(model, job.adapter, base, job.seed)


def _merged_base(job: StageJob, member: GroupMember, task: Task) -> Path:
    """The folder of the weights under this stage's adapter; merges the earlier adapter into a new one if it must."""
    if not job.adapter.is_beside or job.from_adapter is None or not job.spec.merge_first:
        return job.base
    folder = job.folder / "merged"
    if member.rank == 0 and not is_artifact(folder):
        # An adapter of this stage's kind has a head, which is merged with it; one of a language model has none.
        is_ours = read_artifact(job.from_adapter).kind == task.kind
        model = task.load(job.base, torch.float32) if is_ours else load_weights(job.base, torch.float32)
        model = adapters.merged(model, job.from_adapter, dtype_of(job.base))
        with new_artifact(
            folder,
            kind=task.kind if is_ours else "model",
            name=f"{job.name}-merged",
            fingerprint=job.fingerprint,
            may_commit=member.fence.check,
            parents=(digest_of(job.base), digest_of(job.from_adapter)),
            versions=library_versions(),
        ) as partial:
            model.save_pretrained(partial)
            load_tokenizer(job.base, job.chat_template).save_pretrained(partial)
    wait_for(folder, member.fence)
    return folder
