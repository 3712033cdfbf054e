"""Training one stage on one worker: what all kinds of stages share."""

from __future__ import annotations

import gc
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState, GradientState
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

from fettle.artifact import is_artifact, library_versions, new_artifact, read_artifact, replace_text
from fettle.errors import UserError
from fettle.models import adapters
from fettle.models.base import digest_of, dtype_of, load_tokenizer, load_weights
from fettle.train.checkpoint import Checkpoints, wait_for
from fettle.train.curriculum import Curriculum, StepsUnderway, curriculum, read_cursor
from fettle.train.early import EarlyStopping
from fettle.train.job import GroupMember, StageJob
from fettle.train.optimizers import adam_arguments
from fettle.train.param_groups import LayerRates
from fettle.train.progress import ProgressWriter, StepRow, curve
from fettle.train.task import Task
from fettle.train.trainer import MicroBatches, StageTrainer, training_arguments
from fettle.train.zero import full_state, needs_engine, zero_config

_NEXT_ATTEMPT_S = 5  # a worker group takes longer to start; a wall clock is not set by as much


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
    if job.adapter == "full" and job.from_adapter is not None:
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
    report = _Report(job, steps, write=member.rank == 0)
    model = merged if merged is not None else _load(job, base, member, task)
    if rates is not None:
        rates.freeze(model)
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
        ),
        steps=steps,
        optimizer=job.spec.optimizer,
        schedule=job.spec.schedule,
        checkpoints=checkpoints,
        precision=job.precision,
        rates=rates,
        early=early,
        callbacks=[early, report] if early is not None else [report],
    )
    report.trainer = trainer
    if early is not None:
        early.trainer = trainer
    trainer.train(resume_from_checkpoint=str(latest[1]) if latest else None)
    state = full_state(trainer)
    if member.rank == 0:
        assert state is not None
        told = report.metrics() | (early.metrics() if early is not None else {})
        _publish(job, base, member, trainer, tokenizer, state, told)
        checkpoints.clear()
    del trainer, report.trainer, state, merged, model, early
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
    return member.cluster.gpus_per_worker > 0 if told is None else told


def _load(job: StageJob, base: Path, member: GroupMember, task: Task) -> PreTrainedModel | PeftModel:
    if job.adapter == "full":
        return task.load(base, torch.float32)
    # Frozen weights may lie in bf16 where the arithmetic is bf16 anyway; ZeRO 3 wants one type (trl#6089).
    frozen = torch.bfloat16 if job.precision == "bf16" and member.cluster.zero < 3 else torch.float32
    model = task.load(base, frozen)
    if job.from_adapter is not None and not job.spec.merge_first:
        return adapters.resume(model, job.from_adapter)
    return adapters.attach(model, job.adapter, base, job.seed)


def _merged_base(job: StageJob, member: GroupMember, task: Task) -> Path:
    """The folder of the weights under this stage's adapter; merges the earlier adapter into a new one if it must."""
    if job.adapter == "full" or job.from_adapter is None or not job.spec.merge_first:
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


class _Report(TrainerCallback):
    """Writes each step down, and measures the held-out loss before and after."""

    def __init__(self, job: StageJob, steps: StepsUnderway, *, write: bool) -> None:
        self.job, self.steps = job, steps
        self.trainer: StageTrainer
        self.writer = ProgressWriter(job.progress) if write else None
        self.before_file = job.folder / "heldout_before.json"
        self.before: dict[str, float] = {}
        self.after: dict[str, float] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.task.prepare(self.trainer)
        if self.before_file.is_file():  # a resumed run: the model is no longer the one the stage received
            self.before = json.loads(self.before_file.read_text(encoding="utf-8"))
        else:
            self.before = self.trainer.heldout_measures(self.steps.lessons.heldout)
            if self.writer:
                replace_text(self.before_file, json.dumps(self.before))
        if self.writer:
            self.writer.start_clock()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if self.writer and "loss" in logs:
            examples = self.steps[state.global_step].examples
            self.writer.write(
                step=state.global_step,
                steps=state.max_steps,
                loss=float(logs["loss"]),
                lr=float(logs["learning_rate"]),
                grad_norm=float(logs.get("grad_norm") or 0.0),
                tokens=sum(len(e.input_ids) for e in examples),
                loss_tokens=sum(int(e.loss_mask[1:].sum()) for e in examples),
            )

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.after = self.trainer.heldout_measures(self.steps.lessons.heldout)

    def metrics(self) -> dict[str, Any]:
        """What the report says of the stage; the loss is a mean over the task's unit, mostly in nats a token."""
        rows = curve(self.job.progress)
        tenth = max(1, len(rows) // 10)
        return {
            "seconds": round(_elapsed(rows), 1),
            "steps": len(rows),
            "tokens": {"loss_bearing": sum(r.loss_tokens for r in rows), "all": sum(r.tokens for r in rows)},
            "loss": {
                "first": sum(r.loss for r in rows[:tenth]) / tenth,
                "last": sum(r.loss for r in rows[-tenth:]) / tenth,
                "heldout_before": self.before.get("loss"),
                "heldout_after": self.after.get("loss"),
            },
            "unit": self.trainer.task.unit,
            "measures": {
                name: {"before": self.before.get(name), "after": value}
                for name, value in self.after.items()
                if name != "loss"
            },
        }


def _elapsed(rows: Sequence[StepRow]) -> float:
    """Seconds of training that led to the result; an attempt's clock begins at 0."""
    total, last, began = 0.0, 0.0, 0.0
    for row in rows:
        # The next attempt may have taken longer to its first step than the one before lived, but it began later.
        if row.seconds < last or row.time - row.seconds > began + _NEXT_ATTEMPT_S:
            last = 0.0
        began = row.time - row.seconds
        total += row.seconds - last
        last = row.seconds
    return total


def _publish(
    job: StageJob,
    base: Path,
    member: GroupMember,
    trainer: StageTrainer,
    tokenizer: PreTrainedTokenizerBase,
    state: dict[str, torch.Tensor],
    metrics: dict[str, Any],
) -> None:
    is_adapter = job.adapter != "full"
    base_digest = digest_of(base)
    parents = [base_digest]
    if job.from_adapter is not None:
        parents.append(digest_of(job.from_adapter))
    with new_artifact(
        job.artifact,
        kind="adapter" if is_adapter and trainer.task.kind == "model" else trainer.task.kind,
        name=job.name,
        fingerprint=job.fingerprint,
        may_commit=member.fence.check,
        base={"path": str(base), "digest": base_digest} if is_adapter else None,
        parents=tuple(parents),
        recipe=job.recipe,
        data=dict(job.data),
        seed=job.seed,
        versions=library_versions(),
        metrics=metrics,
    ) as folder:
        model: Any = trainer.model
        generates = trainer.task.kind == "model"
        if generates:
            generation = (model.get_base_model() if is_adapter else model).generation_config
            generation.eos_token_id = list(job.end_ids)
            generation.pad_token_id = tokenizer.pad_token_id
        if not is_adapter:
            dtype = dtype_of(base)
            state = _cast(state, dtype)
        model.save_pretrained(folder, state_dict=state)
        if not is_adapter:
            model.config.dtype = dtype  # transformers notes that of the model, which was trained in float32
            model.config.save_pretrained(folder)
        if is_adapter:
            if generates:
                generation.save_pretrained(folder)
            if trainer.task.kind == "classifier":
                model.get_base_model().config.save_pretrained(folder)  # with its labels
            (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
        tokenizer.save_pretrained(folder)


def _cast(state: dict[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The weights in `dtype`; tied ones stay one tensor, so that they are saved once."""
    seen: dict[int, torch.Tensor] = {}
    return {name: seen.setdefault(value.data_ptr(), value.to(dtype)) for name, value in state.items()}
