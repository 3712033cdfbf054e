"""Training one stage on one worker: what all kinds of stages share."""

from __future__ import annotations

import functools
import gc
import uuid
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate.state import AcceleratorState, GradientState
from peft import PeftModel
from transformers import PreTrainedModel, TrainerCallback

from fettle.artifact import is_artifact, library_versions, new_artifact, read_artifact
from fettle.errors import UserError
from fettle.models import adapters
from fettle.models.attention import attend
from fettle.models.base import digest_of, dtype_of, load_tokenizer, load_weights
from fettle.models.layers import freeze_below
from fettle.models.licences import inherited
from fettle.models.precision import frozen_dtype
from fettle.models.record_attention import attend_by_record
from fettle.models.shared import frozen_from
from fettle.models.stored import Quantised
from fettle.train.checkpoint import Checkpoints, wait_for
from fettle.train.curriculum import Curriculum, StepsUnderway, curriculum, read_cursor
from fettle.train.early import EarlyStopping
from fettle.train.job import GroupMember, LearnJob, StageJob
from fettle.train.lisa import Lisa
from fettle.train.notice import SaveOnNotice
from fettle.train.optimizers import adam_arguments
from fettle.train.param_groups import LayerRates
from fettle.train.publish import publish
from fettle.train.rounds import Rounds
from fettle.train.task import Task
from fettle.train.told import StageReport
from fettle.train.trainer import MicroBatches, StageTrainer, Underway, training_arguments
from fettle.train.writer import CheckpointWriter
from fettle.train.zero import full_state, needs_engine, zero_config


class Loop(Protocol):
    """What makes the examples of a stage that does not learn from records, such as reinforcement learning."""

    def underway(self, latest: tuple[int, Path] | None) -> Underway:
        """The steps from the checkpoint (step, folder) on; all of them where there is none."""
        ...

    def complete(self, model: Any) -> None:
        """Puts what is trained beside the model into it."""
        ...

    def rate_of(self, name: str) -> float | None:
        """The rate of a parameter that does not learn at the stage's."""
        ...

    def callbacks(self) -> list[TrainerCallback]:
        """What else is to be told of the steps."""
        ...

    def metrics(self) -> dict[str, Any]:
        """What the report says beside the losses."""
        ...


def train_stage(
    job: LearnJob, member: GroupMember, task: Task, rates: LayerRates | None = None, loop: Loop | None = None
) -> None:
    """Trains from the last complete checkpoint, if there is one, to the stage's artifact, which rank 0 writes.

    rates: of each layer, where they are not all the same. loop: what makes the examples; without one they are the
    records of the job, a StageJob.
    """
    checkpoints = Checkpoints(job.folder / "checkpoints", job.fingerprint, job.spec.checkpoint.keep, member.fence)
    latest, attempt = _begun_together(checkpoints, member)
    writer = CheckpointWriter(checkpoints, attempt, member.rank, member.world)
    early = None
    if loop is not None:
        steps = loop.underway(latest)
    else:
        assert isinstance(job, StageJob)
        steps, early = _from_records(job, member, latest)
    num_steps = len(steps)
    # With ZeRO 3 the arguments make from_pretrained shard what is loaded from then on, all workers together: after
    # them the stage's model, before them what one worker merges, or what has to be whole while it is merged.
    base = _merged_base(job, member, task)
    merged = None
    if not job.adapter.is_beside and job.from_adapter is not None:
        merged = adapters.merged(task.load(job.base, torch.float32), job.from_adapter, torch.float32)
    args = training_arguments(
        job.folder,
        max_steps=num_steps,
        learning_rate=job.spec.lr,
        **adam_arguments(job.spec.optimizer),
        max_grad_norm=job.spec.optimizer.max_grad_norm,
        gradient_accumulation_steps=job.spec.batch.accumulate,
        gradient_checkpointing=_checkpoints_gradients(job, member),
        save_steps=job.save_every,
        seed=job.seed,
        use_cpu=member.cluster.gpus_per_worker == 0,
        deepspeed=zero_config(member.cluster) if needs_engine(member.cluster) else None,
    )
    tokenizer = load_tokenizer(base, job.chat_template)
    report = StageReport(job, steps, write=member.rank == 0)
    model = merged if merged is not None else _load(job, base, member, task)
    attend_as_told(job, model, on_cpu=member.cluster.gpus_per_worker == 0)
    if rates is not None:
        rates.freeze(model)
    notice = SaveOnNotice(writer, job.saves_after, member.is_leaving)
    callbacks: list[TrainerCallback] = [notice, report] if early is None else [early, notice, report]
    callbacks += _choose_layers(job, model)
    rounds = Rounds(job, member.rank, member.world) if job.rounds is not None else None
    callbacks += [rounds] if rounds is not None else []
    if loop is not None:
        loop.complete(model)
        callbacks += loop.callbacks()
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
            first=latest[0] if latest else 0,
        ),
        steps=steps,
        optimizer=job.spec.optimizer,
        schedule=job.spec.schedule,
        writer=writer,
        precision=job.precision,
        rates=rates,
        rate_of=functools.partial(_rate_of, job, loop),
        early=early,
        callbacks=callbacks,
    )
    report.trainer = trainer
    if early is not None:
        early.trainer = trainer
    if rounds is not None:
        rounds.trainer = trainer
    try:
        trainer.train(resume_from_checkpoint=str(latest[1]) if latest else None)
        writer.wait()
    except BaseException:
        _forget_engine()
        raise
    finally:
        writer.close()
    state = full_state(trainer)
    if member.rank == 0:
        assert state is not None
        told = report.metrics() | (early.metrics() if early is not None else {})
        told |= loop.metrics() if loop is not None else {}
        publish(job, base, member, trainer, tokenizer, state, told)
        checkpoints.clear()
    del trainer, report.trainer, state, merged, model, early, callbacks, notice, writer, rounds
    _forget_engine()
    gc.collect()


def _forget_engine() -> None:
    """accelerate keeps the process's engine and plugins in class attributes; its next stage has its own."""
    AcceleratorState._reset_state()
    GradientState._reset_state()


def _begun_together(checkpoints: Checkpoints, member: GroupMember) -> tuple[tuple[int, Path] | None, str]:
    """(the checkpoint to go on from, a name for this attempt), the same on all workers: rank 0 reads every byte of the
    one it takes, which the others need not."""
    box: list[Any] = [None]
    if member.rank == 0:
        checkpoints.sweep()
        box = [(checkpoints.latest(lambda text: print(text, flush=True)), uuid.uuid4().hex[:8])]
    if member.world > 1:
        torch.distributed.broadcast_object_list(box, src=0)
    latest, attempt = box[0]
    return latest, attempt


def _from_records(
    job: StageJob, member: GroupMember, latest: tuple[int, Path] | None
) -> tuple[Underway, EarlyStopping | None]:
    """(the steps from the checkpoint on, what may end them early)."""
    lessons = curriculum(job, member.rank)
    early = _early(job, lessons, latest[1] if latest else None)
    if early is not None and early.has_ended:
        return StepsUnderway(lessons, lessons.num_steps), early  # interrupted after that: what is left is to publish
    if latest is None:
        return StepsUnderway(lessons), early
    return StepsUnderway(lessons, latest[0], read_cursor(latest[1])), early


def _rate_of(job: LearnJob, loop: Loop | None, name: str) -> float | None:
    """LoRA+ has LoRA's matrices B learn at a rate of their own (Hayou et al. 2024, arXiv:2402.12354, section 4)."""
    told = loop.rate_of(name) if loop is not None else None
    if told is None and job.adapter.lr_ratio is not None and "lora_B" in name:
        return job.adapter.lr_ratio * job.spec.lr
    return told


def _early(job: StageJob, lessons: Curriculum, checkpoint: Path | None) -> EarlyStopping | None:
    if job.spec.early_stop is None:
        return None
    if not lessons.heldout:
        raise UserError(f"stages.{job.name}.early_stop: there is nothing to measure on; name heldout: {{data: FILE}}")
    return EarlyStopping(job.spec.early_stop, checkpoint)


def _checkpoints_gradients(job: LearnJob, member: GroupMember) -> bool:
    told = job.spec.gradient_checkpointing
    # A layer that is computed again has lost the prefix's keys and values.
    by_default = member.cluster.gpus_per_worker > 0 and job.adapter.kind != "prefix"
    return by_default if told is None else told


def attend_as_told(job: LearnJob, model: PreTrainedModel | PeftModel, *, on_cpu: bool) -> None:
    """Makes a stage's model, or one that is measured against it, compute attention as the recipe says and the device
    does best. Raises UserError where it cannot."""
    try:
        attend(model, job.spec.attention)
    except ValueError as error:
        raise UserError(f"stages.{job.name}.attention: {error}", fix="remove it, or say attention: auto") from None
    if on_cpu:
        attend_by_record(model)


def _choose_layers(job: LearnJob, model: PreTrainedModel | PeftModel) -> list[TrainerCallback]:
    """Freezes what the adapter's kind keeps out of the training, for good or, with LISA, a few steps at a time."""
    spec = job.adapter
    if spec.kind == "freeze":
        assert spec.layers is not None
        freeze_below(model, spec.layers)
    if spec.kind != "lisa":
        return []
    assert isinstance(model, PreTrainedModel) and spec.layers is not None and spec.every is not None
    return [Lisa(model, count=spec.layers, every=spec.every, seed=job.seed)]


def _load(job: LearnJob, base: Path, member: GroupMember, task: Task) -> PreTrainedModel | PeftModel:
    if not job.adapter.is_beside:
        return task.load(base, torch.float32)
    frozen = frozen_dtype(job.precision, member.cluster.zero)
    bits = job.adapter.bits
    with frozen_from(member.bases):
        model = task.load(base, frozen if bits is None else Quantised(bits, frozen))
    if job.from_adapter is not None and not job.spec.merge_first:
        return adapters.resume(model, job.from_adapter)
    return adapters.attach(model, job.adapter, base, job.seed)


def _merged_base(job: LearnJob, member: GroupMember, task: Task) -> Path:
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
            **inherited([job.base, job.from_adapter]),
        ) as partial:
            model.save_pretrained(partial)
            load_tokenizer(job.base, job.chat_template).save_pretrained(partial)
    wait_for(folder, member.fence)
    return folder
