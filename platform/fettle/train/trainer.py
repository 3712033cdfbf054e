"""TRL's SFTTrainer fed with our micro-batches: exact packing, one loss for any number of workers, exact resume.

What is overridden, and why (train.md 0b): the data loader (a step's examples are the plan's, whatever the workers,
the accumulation and the packing), the loss (TRL also computes entropy and token accuracy over the whole vocabulary
each step, a quarter of its time), the schedule (with a floor) and checkpoints (resuming.py: for any number of workers).
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from datasets import Dataset
from peft import PeftModel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from trl import SFTConfig, SFTTrainer

from fettle.data.batches import IGNORE, Encoded, share_out
from fettle.models.adapters import cast_by_autocast_alone
from fettle.models.precision import LOW
from fettle.recipe.cluster import Precision
from fettle.recipe.optimizer import OptimizerSpec, ScheduleSpec
from fettle.train.early import EarlyStopping
from fettle.train.logprobs import want_few_shapes
from fettle.train.loss_scale import scale_losses
from fettle.train.optimizers import hidden_matrices, make_optimizer, parameter_groups
from fettle.train.param_groups import LayerRates
from fettle.train.resuming import restore_progress, save_progress
from fettle.train.schedule import rate_at
from fettle.train.task import HELDOUT, Task
from fettle.train.writer import CheckpointWriter, Written

_POLL_S = 0.05


class Steps(Protocol):
    """The examples of one step after the other, over all workers."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Sequence[Encoded]]: ...


class Underway(Steps, Protocol):
    """The steps of a stage that is being trained."""

    @property
    def heldout(self) -> Sequence[Encoded]:
        """What is measured on."""
        ...

    @property
    def reward(self) -> float | None:
        """The mean reward of what is being learned from; None where nothing is rewarded."""
        ...

    def __getitem__(self, number: int) -> Sequence[Encoded]:
        """The examples of a step that was just handed out; the first is 1."""
        ...

    def write(self, checkpoint: Path, number: int) -> None:
        """Writes into the checkpoint of a step, which is not complete yet, what going on from it needs."""
        ...


@dataclass(frozen=True)
class MicroBatches:
    """This worker's micro-batches of some steps, `accumulate` of them a step.

    steps: the examples of each step over all workers; its length is that of the whole stage, from wherever it goes on.
    first: the number of the first of them, from 0.
    """

    steps: Steps
    rank: int
    world: int
    accumulate: int
    collate: Callable[[Sequence[Encoded], int], dict[str, torch.Tensor]]
    first: int = 0

    def __len__(self) -> int:
        return len(self.steps) * self.accumulate

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for step, examples in enumerate(self.steps, start=self.first):
            bins = share_out([len(e.input_ids) for e in examples], self.world * self.accumulate)
            for part in bins[self.rank * self.accumulate : (self.rank + 1) * self.accumulate]:
                yield self.collate([examples[i] for i in part], step)


class StageTrainer(SFTTrainer):
    """Trains a task's model on MicroBatches."""

    def __init__(
        self,
        *,
        task: Task,
        model: PreTrainedModel | PeftModel,
        args: SFTConfig,
        tokenizer: PreTrainedTokenizerBase,
        batches: MicroBatches,
        steps: Underway,
        optimizer: OptimizerSpec,
        schedule: ScheduleSpec,
        writer: CheckpointWriter,
        precision: Precision,
        callbacks: list[TrainerCallback],
        early: EarlyStopping | None = None,
        rates: LayerRates | None = None,
        rate_of: Callable[[str], float | None] | None = None,
    ) -> None:
        self.task, self.batches, self.steps = task, batches, steps
        self.schedule, self.writer, self.rates = schedule, writer, rates
        self.optimizer_spec, self.early, self.rate_of = optimizer, early, rate_of
        self.num_terms = 0  # of the loss, in the step under way, over all workers
        trained = {name: weight.data for name, weight in model.named_parameters() if weight.requires_grad}
        super().__init__(
            model=model,
            args=args,
            processing_class=tokenizer,
            train_dataset=Dataset.from_dict({"input_ids": [[0]], "labels": [[0]]}),  # batches come from us
            callbacks=callbacks,
        )
        if isinstance(model, PeftModel):  # TRL has cast an adapter over quantised weights to bfloat16
            for name, data in trained.items():
                weight = model.get_parameter(name)
                weight.data = weight.data if weight.dtype == data.dtype else data.to(weight.device)
        inner: Any = model.get_base_model() if isinstance(model, PeftModel) else model
        self.precision = precision
        self.in_precision(inner)
        if precision == "fp16":
            scale_losses(self)
        # num_items_in_batch (labels over all workers and micro-batches) is always wanted.
        self.model_accepts_loss_kwargs = True

    def in_precision(self, model: Any) -> Any:
        """The model, whose forward is in the stage's precision from now on."""
        if self.precision in LOW:
            # Inside the forward, because DeepSpeed's engine switches an outer autocast off.
            model.forward = _autocast(model.forward, self.args.device.type, LOW[self.precision])
            cast_by_autocast_alone(model)
            if self.args.device.type == "cpu":
                want_few_shapes(model)
        return model

    def get_train_dataloader(self) -> MicroBatches:  # type: ignore[override]
        """Ours as it is: accelerate would shard it once more."""
        return self.batches

    def create_optimizer(self, model: Any = None) -> Optimizer:
        """The recipe's, with a group for each layer where their rates differ."""
        if self.optimizer is None:
            ours: Any = self.model if model is None else model
            spec = self.optimizer_spec
            lr, decaying = self.args.learning_rate, self.get_decay_parameter_names(ours)
            groups = parameter_groups(ours, decaying, spec.weight_decay, self.rate_of)
            inner: Any = ours.get_base_model() if isinstance(ours, PeftModel) else ours
            self.optimizer = make_optimizer(spec, groups, lr, hidden_matrices(inner))
            if self.rates is not None:
                self.rates.split(ours, self.optimizer)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> LambdaLR:
        """Warm-up, then down to the floor; of each layer the share that `rates` gives it."""
        rate = functools.partial(rate_at, steps=num_training_steps, spec=self.schedule)
        optimizer = cast(Optimizer, optimizer or self.optimizer)
        each = rate if self.rates is None else self.rates.of_groups(optimizer, rate, num_training_steps)
        schedule = LambdaLR(optimizer, each)
        self.lr_scheduler, self._created_lr_scheduler = schedule, True
        return schedule

    def compute_loss(
        self, model: Any, inputs: dict[str, torch.Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Sum of this micro-batch's loss / the number of its terms in the step, over all workers and micro-batches.

        Times the number of workers, whose gradients the engine averages. Returns a scalar.
        """
        self.num_terms = int(num_items_in_batch)
        count = torch.as_tensor(num_items_in_batch).clamp(min=1)
        return self.task.loss_sum(model, inputs) / count * self.accelerator.num_processes

    @torch.no_grad()
    def heldout_measures(self, examples: Sequence[Encoded], tokens_per_batch: int = 4096) -> dict[str, float]:
        """The task's measures as means over all terms of some examples, of which every worker takes its share.

        Empty where there are no examples.
        """
        if not examples:
            return {}
        model = self.model_wrapped
        was_training = model.training
        model.eval()
        groups = max(1, sum(len(e.input_ids) for e in examples) // (tokens_per_batch * self.batches.world))
        mine = MicroBatches([examples], self.batches.rank, self.batches.world, groups, self.batches.collate, HELDOUT)
        sums: dict[str, torch.Tensor] = {}
        terms = torch.zeros((), dtype=torch.float64, device=self.args.device)
        for batch in mine:
            batch = self._prepare_inputs(batch)
            for name, value in self.task.measures(model, batch).items():
                sums[name] = sums.get(name, torch.zeros_like(terms)) + value
            terms += (batch["labels"] != IGNORE).sum()
        total = torch.stack([terms, *sums.values()])
        if self.batches.world > 1:
            torch.distributed.all_reduce(total)
        model.train(was_training)
        means = (total[1:] / total[0].clamp(min=1)).tolist()
        return dict(zip(sums, means, strict=True))

    def take_weights(self, step: int) -> None:
        """The weights of a step's checkpoint in place of those of the last one; all workers call it together."""
        self.writer.wait()
        while not (folder := self.writer.checkpoints.path(step)).is_dir():
            self.writer.checkpoints.fence.check()  # rank 0 waits for the others' parts, and these not for it
            time.sleep(_POLL_S)
        Written(folder).stored.load_weights(self.model)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """TRL writes one into each checkpoint; an artifact has its own papers."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = self.writer.folder(self.state.global_step)
        if self.is_world_process_zero():
            self.steps.write(folder, self.state.global_step)
            if self.early is not None:
                self.early.write(folder)
        save_progress(self, folder, self.early.kept_step if self.early is not None else None)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """In `_prepare_for_training`: an engine's optimizer copies the weights when it is made."""

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: Any) -> Any:
        if resume_from_checkpoint is None:
            return super()._prepare_for_training(max_steps, train_dataloader, None)
        written = Written(Path(resume_from_checkpoint))
        written.stored.load_weights(self.model)
        prepared = super()._prepare_for_training(max_steps, train_dataloader, None)
        restore_progress(self, written)
        return prepared

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            Written(Path(checkpoint)).restore_randomness(self.batches.rank, self.batches.world)


def training_arguments(folder: Path, **more: Any) -> SFTConfig:
    """TRL's arguments with everything off that we do not use."""
    return SFTConfig(
        output_dir=str(folder),
        per_device_train_batch_size=1,
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        packing=False,
        bf16=False,
        report_to=[],
        disable_tqdm=True,
        logging_strategy="steps",
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        ignore_data_skip=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        average_tokens_across_devices=True,
        **more,
    )


def _autocast(forward: Callable[..., Any], device: str, dtype: torch.dtype) -> Callable[..., Any]:
    @functools.wraps(forward)
    def run(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(device, dtype=dtype):
            return forward(*args, **kwargs)

    return run
