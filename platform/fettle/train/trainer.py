"""TRL's SFTTrainer fed with our micro-batches: exact packing, one loss for any number of workers, exact resume.

What is overridden, and why (train.md 0b): the data loader (a step's examples are the plan's, whatever the workers,
the accumulation and the packing), the loss (TRL also computes entropy and token accuracy over the whole vocabulary
each step, a quarter of its time), the schedule (with a floor) and where checkpoints are written (beside, then renamed).
"""

from __future__ import annotations

import functools
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
from trl.trainer.utils import add_fused_lm_head

from fettle.data.batches import IGNORE, Encoded, collate, share_out
from fettle.recipe.stages import ScheduleSpec
from fettle.train.checkpoint import Checkpoints
from fettle.train.curriculum import StepsUnderway, write_cursor
from fettle.train.schedule import rate_at

_MOST_LOGITS = 2**28  # 1 GiB in float32


class Steps(Protocol):
    """The examples of one step after the other, over all workers."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Sequence[Encoded]]: ...


@dataclass(frozen=True)
class MicroBatches:
    """This worker's micro-batches of some steps, `accumulate` of them a step.

    steps: the examples of each step over all workers; its length is that of the whole stage, from wherever it goes on.
    """

    steps: Steps
    rank: int
    world: int
    accumulate: int
    max_length: int
    packing: bool
    pad_id: int

    def __len__(self) -> int:
        return len(self.steps) * self.accumulate

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for examples in self.steps:
            bins = share_out([len(e.input_ids) for e in examples], self.world * self.accumulate)
            for part in bins[self.rank * self.accumulate : (self.rank + 1) * self.accumulate]:
                yield collate(
                    [examples[i] for i in part],
                    max_length=self.max_length,
                    packing=self.packing,
                    pad_id=self.pad_id,
                )


class StageTrainer(SFTTrainer):
    """Trains a causal language model on MicroBatches."""

    def __init__(
        self,
        *,
        model: PreTrainedModel | PeftModel,
        args: SFTConfig,
        tokenizer: PreTrainedTokenizerBase,
        batches: MicroBatches,
        steps: StepsUnderway,
        schedule: ScheduleSpec,
        checkpoints: Checkpoints,
        precision: str,
        callbacks: list[TrainerCallback],
    ) -> None:
        self.batches, self.steps = batches, steps
        self.schedule, self.checkpoints = schedule, checkpoints
        super().__init__(
            model=model,
            args=args,
            processing_class=tokenizer,
            train_dataset=Dataset.from_dict({"input_ids": [[0]], "labels": [[0]]}),  # batches come from us
            callbacks=callbacks,
        )
        causal: Any = model.get_base_model() if isinstance(model, PeftModel) else model
        self.vocab = int(causal.config.get_text_config().vocab_size)
        add_fused_lm_head(causal, outputs=("log_probs",))
        if precision == "bf16":
            # Inside the forward, because DeepSpeed's engine switches an outer autocast off.
            causal.forward = _autocast(causal.forward, args.device.type)
        # num_items_in_batch (loss-bearing tokens over all workers and micro-batches) is always wanted.
        self.model_accepts_loss_kwargs = True

    def get_train_dataloader(self) -> MicroBatches:  # type: ignore[override]
        """Ours as it is: accelerate would shard it once more."""
        return self.batches

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> LambdaLR:
        """Warm-up, then down to the floor."""
        rate = functools.partial(rate_at, steps=num_training_steps, spec=self.schedule)
        schedule = LambdaLR(cast(Optimizer, optimizer or self.optimizer), rate)
        self.lr_scheduler, self._created_lr_scheduler = schedule, True
        return schedule

    def compute_loss(
        self, model: Any, inputs: dict[str, torch.Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Sum of the negative log-probabilities of this micro-batch's loss-bearing tokens / their number in the step.

        Times the number of workers, whose gradients the engine averages. Returns a scalar in nats.
        """
        count = torch.as_tensor(num_items_in_batch).clamp(min=1)
        return self.loss_sum(model, inputs) / count * self.accelerator.num_processes

    def loss_sum(self, model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Sum of the negative log-probabilities of the labels, in nats, a scalar.

        On a CPU from the logits, while they are few; else by TRL's fused head, which never holds them all. (Without
        its GPU kernel the fused head projects twice, the second time in float32: a quarter of the step, 2026-11.)
        """
        labels = inputs["labels"]
        if labels.device.type != "cpu" or labels.numel() * self.vocab > _MOST_LOGITS:
            return -model(**inputs, use_cache=False, fused_lm_head=True).log_probs.float().sum()
        wanted = labels[:, 1:] != IGNORE
        output = model(input_ids=inputs["input_ids"], position_ids=inputs["position_ids"], use_cache=False)
        logits = output.logits[:, :-1][wanted].float()
        return torch.nn.functional.cross_entropy(logits, labels[:, 1:][wanted], reduction="sum")

    @torch.no_grad()
    def heldout_loss(self, examples: Sequence[Encoded], tokens_per_batch: int = 4096) -> float | None:
        """Mean negative log-probability of the examples' loss-bearing tokens, in nats; every worker takes its share.

        None where there are no examples.
        """
        if not examples:
            return None
        model = self.model_wrapped
        was_training = model.training
        model.eval()
        groups = max(1, sum(len(e.input_ids) for e in examples) // (tokens_per_batch * self.batches.world))
        mine = MicroBatches(
            steps=[examples],
            rank=self.batches.rank,
            world=self.batches.world,
            accumulate=groups,
            max_length=self.batches.max_length,
            packing=self.batches.packing,
            pad_id=self.batches.pad_id,
        )
        total = torch.zeros(2, dtype=torch.float64, device=self.args.device)
        for batch in mine:
            batch = self._prepare_inputs(batch)
            total[0] += self.loss_sum(model, batch)
            total[1] += (batch["labels"][:, 1:] != IGNORE).sum()
        if self.batches.world > 1:
            torch.distributed.all_reduce(total)
        model.train(was_training)
        return float(total[0] / total[1].clamp(min=1))

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Inside a checkpoint DeepSpeed's own shards hold the weights; a second, gathered copy would only cost."""
        if not self.is_deepspeed_enabled:
            super().save_model(output_dir, _internal_call)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """TRL writes one into each checkpoint; an artifact has its own papers."""

    def _get_output_dir(self, trial: Any) -> str:
        return str(self.checkpoints.partial)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.batches.world > 1:
            torch.distributed.barrier()
        if self.is_world_process_zero():
            written = self.checkpoints.partial / f"checkpoint-{self.state.global_step}"
            write_cursor(written, self.steps[self.state.global_step].after)
            self.checkpoints.commit(written, self.state.global_step)
        if self.batches.world > 1:
            torch.distributed.barrier()


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


def _autocast(forward: Callable[..., Any], device: str) -> Callable[..., Any]:
    @functools.wraps(forward)
    def run(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(device, dtype=torch.bfloat16):
            return forward(*args, **kwargs)

    return run
