"""One side of one case of `gpu.py`, in a process of its own, which prints a JSON line.

python benchmarks/gpu_side.py fettle|trl CASE SHAPE BASE STEPS
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback

from gpu_case import CASES, LR, RANK, Case, records, sizes_of

WARM_UP = 3


def fettle(case: Case, shape: str, base: Path, steps: int, folder: Path) -> list[float]:
    """The sft stage as a worker is handed it; when each step ended."""
    import one_stage
    from fettle.data.tokens import TokenExample, write_tokens
    from fettle.recipe.adapter import AdapterSpec
    from fettle.recipe.cluster import ClusterSpec
    from fettle.recipe.kinds import SftStage
    from fettle.train.checkpoint import Fence
    from fettle.train.job import GroupMember
    from fettle.train.progress import curve
    from fettle.train.stages.sft import sft

    length, rows = sizes_of(shape)
    examples = [TokenExample(np.array(one, np.int32), np.ones(len(one), bool)) for one in records(shape, steps)]
    write_tokens(folder / "tokens", examples)
    (folder / "epoch").write_text("bench")
    spec: Any = {"max_steps": steps, "batch": {"tokens": length * rows}, "lr": LR, "schedule": "constant"}
    spec |= {"checkpoint": {"every": 10**6}, "gradient_checkpointing": case.recomputes}
    adapter = AdapterSpec(kind="full") if case.trains_all else AdapterSpec(kind="lora", r=RANK, bits=case.bits)
    stage = SftStage(name="bench", kind="sft", data="none", **spec)
    job = one_stage.job_of(stage, folder, folder / "tokens", base, max_length=length, adapter=adapter, precision="bf16")
    gpus = int(torch.cuda.is_available())
    cluster = ClusterSpec(zero=case.zero, gpus_per_worker=gpus, precision="bf16")
    if case.zero:
        _alone("nccl" if gpus else "gloo")
    sft(job, GroupMember(0, 1, cluster, Fence(folder / "epoch", "bench")))
    return [one.seconds for one in curve(job.progress)]


def trl(case: Case, shape: str, base: Path, steps: int, folder: Path) -> list[float]:
    """TRL's SFTTrainer, packed, with the same rows a step; when each step ended."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
    from trl import SFTConfig, SFTTrainer

    if case.zero:
        raise SystemExit("TRL's side has no DeepSpeed: see the same case without")
    length, rows = sizes_of(shape)
    ends = list[float]()

    class Clock(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            ends.append(time.perf_counter())

    more: dict[str, Any] = {"dtype": torch.float32 if case.trains_all else torch.bfloat16}
    if case.bits:
        more["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    args = SFTConfig(
        output_dir=str(folder / "trl"),
        use_cpu=not torch.cuda.is_available(),
        per_device_train_batch_size=rows,
        max_steps=steps,
        learning_rate=LR,
        lr_scheduler_type="constant",
        max_length=length,
        packing=True,
        bf16=True,
        gradient_checkpointing=case.recomputes,
        report_to=[],
        save_strategy="no",
        logging_steps=10**6,
    )
    lora = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM")
    SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(base, **more),
        args=args,
        train_dataset=Dataset.from_list([{"input_ids": one} for one in records(shape, steps)]),
        processing_class=AutoTokenizer.from_pretrained(base),
        peft_config=None if case.trains_all else lora,
        callbacks=[Clock()],
    ).train()
    return ends


def _alone(backend: str) -> None:
    """A process group of one, as Ray Train would have made it."""
    from fettle.train.zero import load_deepspeed

    load_deepspeed()  # as a worker does first, so that its op is not built by another ninja than at set-up
    told = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"}
    os.environ |= told
    torch.distributed.init_process_group(backend, rank=0, world_size=1)


def main() -> None:
    side, case, shape, base, steps = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        ends = {"fettle": fettle, "trl": trl}[side](CASES[case], shape, Path(base), int(steps), Path(folder))
    apart = [after - before for before, after in zip(ends[WARM_UP - 1 :], ends[WARM_UP:], strict=False)]
    length, rows = sizes_of(shape)
    peak = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0
    print(json.dumps({"speed": length * rows / statistics.median(apart), "peak": peak}))


if __name__ == "__main__":
    main()
