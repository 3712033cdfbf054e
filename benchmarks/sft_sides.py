"""The sides of `sft.py` that run in fettle's own environment, each in a process of its own, which prints one JSON line.

    python benchmarks/sft_sides.py bare|fettle|trl-default|trl-padded|trl-packed FOLDER BASE fp32|bf16 full|lora

bare: what one would write by hand: exact packing, cross-entropy, backward, clip, AdamW: the limit. trl-default: TRL's
SFTTrainer as it comes (padded, gradient checkpointing, bf16). trl-padded, trl-packed: at the told precision, without
checkpointing. All learn from the same tokens once, SEQUENCES records a step, at the same constant rate, in
micro-batches of AT_ONCE rows of MAX_LENGTH tokens where they pack, of 8 records where they pad.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

import one_stage
from fettle.data.batches import IGNORE
from fettle.data.tokens import TokenExample, write_tokens
from fettle.models.adapters import resume
from fettle.models.base import load_weights, resolve_base
from fettle.recipe.adapter import AdapterSpec
from fettle.recipe.cluster import ClusterSpec
from fettle.recipe.kinds import SftStage
from fettle.train.causal import CausalTask
from fettle.train.checkpoint import Fence
from fettle.train.curriculum import StepsUnderway, curriculum
from fettle.train.job import GroupMember, StageJob
from fettle.train.progress import curve
from fettle.train.stages.sft import sft
from fettle.train.trainer import MicroBatches
from sft_case import AT_ONCE, BETAS, CLIP, LORA_R, LR, MAX_LENGTH, SEQUENCES, Case, Clock, told


def job_of(case: Case, folder: Path) -> StageJob:
    """fettle's stage, whose batches the bare loop takes too."""
    examples = [
        TokenExample(np.array(one["input_ids"], np.int32), np.array(one["completion_mask"], bool)) for one in case.train
    ]
    write_tokens(folder / "tokens", examples)
    (folder / "epoch").write_text("bench")
    moved = {"kind": "adamw", "beta1": BETAS[0], "beta2": BETAS[1], "max_grad_norm": CLIP}
    spec: Any = {
        "max_steps": case.steps,
        "batch": {"sequences": SEQUENCES, "accumulate": case.accumulate},
        "lr": LR,
        "schedule": "constant",
    }
    spec |= {"optimizer": moved, "checkpoint": {"every": 10**6}}
    adapter = AdapterSpec(kind="lora", r=LORA_R) if case.adapter == "lora" else AdapterSpec(kind="full")
    told: Any = {"max_length": MAX_LENGTH, "adapter": adapter, "precision": case.precision}
    stage = SftStage(name="bench", kind="sft", data="none", **spec)
    return one_stage.job_of(stage, folder, folder / "tokens", resolve_base(case.base), **told)


def fettle(case: Case, folder: Path) -> None:
    """The stage as a run trains it."""
    job, clock = job_of(case, folder), Clock()
    sft(job, GroupMember(0, 1, ClusterSpec(), Fence(folder / "epoch", "bench")))
    clock.ends = [row.seconds for row in curve(job.progress)]
    base = load_weights(job.base if case.adapter == "lora" else job.artifact, torch.float32)
    told(clock, case, resume(base, job.artifact) if case.adapter == "lora" else base)


def bare(case: Case, folder: Path) -> None:
    """A loop with no framework."""
    job, clock = job_of(case, folder), Clock()
    steps = list(StepsUnderway(curriculum(job)))
    batches = MicroBatches(
        steps, 0, 1, case.accumulate, CausalTask(max_length=MAX_LENGTH, packing=True, pad_id=0).collate
    )
    model: Any = load_weights(job.base, torch.float32)
    if case.adapter == "lora":
        model = get_peft_model(model, _lora())
    model.train()
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LR, betas=BETAS, weight_decay=0.0)
    each = list(batches)
    for step in (each[at : at + case.accumulate] for at in range(0, len(each), case.accumulate)):
        labels = sum(int((batch["labels"][:, 1:] != IGNORE).sum()) for batch in step)
        for batch in step:
            with torch.autocast("cpu", torch.bfloat16, enabled=case.precision == "bf16"):
                logits = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits
            rows, wanted = logits[:, :-1].float().flatten(0, 1), batch["labels"][:, 1:].flatten()
            loss = torch.nn.functional.cross_entropy(rows, wanted, ignore_index=IGNORE, reduction="sum")
            (loss / labels).backward()
        torch.nn.utils.clip_grad_norm_(trained, CLIP)
        optimizer.step()
        optimizer.zero_grad()
        clock.on_step_end()
    told(clock, case, model)


def trl(case: Case, folder: Path, side: str) -> None:
    """TRL's SFTTrainer."""
    packed, clock = side == "trl-packed", Clock()
    more: dict[str, Any] = {}
    if side != "trl-default":
        more = {"gradient_checkpointing": False, "bf16": case.precision == "bf16"}
    each = AT_ONCE if packed else 8
    args = SFTConfig(
        output_dir=str(folder / "trl"),
        use_cpu=True,
        per_device_train_batch_size=each,
        gradient_accumulation_steps=case.accumulate if packed else SEQUENCES // each,
        num_train_epochs=1,
        learning_rate=LR,
        lr_scheduler_type="constant",
        adam_beta1=BETAS[0],
        adam_beta2=BETAS[1],
        weight_decay=0.0,
        max_grad_norm=CLIP,
        max_length=MAX_LENGTH,
        packing=packed,
        completion_only_loss=True,
        report_to=[],
        save_strategy="no",
        logging_steps=10**6,
        **more,
    )
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(resolve_base(case.base), dtype=torch.float32),
        args=args,
        train_dataset=Dataset.from_list(case.train),
        processing_class=AutoTokenizer.from_pretrained(resolve_base(case.base)),
        peft_config=_lora() if case.adapter == "lora" else None,
        callbacks=[clock],
    )
    trainer.train()
    told(clock, case, trainer.model, trainer.state.global_step)


def _lora() -> LoraConfig:
    return LoraConfig(r=LORA_R, lora_alpha=2 * LORA_R, target_modules="all-linear", task_type="CAUSAL_LM")


if __name__ == "__main__":
    torch.set_num_threads(1)
    which, where, base_, precision_, adapter_ = sys.argv[1:]
    told_case = Case(Path(where), base_, precision_, adapter_)
    with tempfile.TemporaryDirectory() as scratch:
        if which.startswith("trl"):
            trl(told_case, Path(scratch), which)
        else:
            {"bare": bare, "fettle": fettle}[which](told_case, Path(scratch))
