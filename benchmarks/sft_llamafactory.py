"""LLaMA-Factory's side of `sft.py`, run by the interpreter of its own environment; prints one JSON line.

    PYTHON benchmarks/sft_llamafactory.py padded|packed FOLDER BASE_FOLDER fp32|bf16 full|lora

It is given the tokens themselves (its `tokenized_path`), packed by its own knapsack where it packs, with its exact
attention (`neat_packing`).
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, DatasetDict
from llamafactory.data.processor.processor_utils import greedy_knapsack
from llamafactory.train.tuner import run_exp
from transformers import AutoModelForCausalLM, AutoTokenizer

from sft_case import AT_ONCE, BETAS, CLIP, LORA_R, LR, MAX_LENGTH, SEQUENCES, Case, Clock, told


def rows_of(case: Case, *, packed: bool) -> list[dict[str, list[int]]]:
    """Its columns: a record each, or several in rows of MAX_LENGTH, told apart by numbers in the attention mask."""
    records = [
        (one["input_ids"], [i if m else -100 for i, m in zip(one["input_ids"], one["completion_mask"], strict=True)])
        for one in case.train
    ]
    if not packed:
        return [{"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels} for ids, labels in records]
    by_length: dict[int, list[int]] = {}
    for number, (ids, _) in enumerate(records):
        by_length.setdefault(len(ids), []).append(number)
    rows = []
    for lengths in greedy_knapsack(sorted(map(len, (ids for ids, _ in records))), MAX_LENGTH):
        row: dict[str, list[int]] = {"input_ids": [], "attention_mask": [], "labels": [], "position_ids": []}
        for place, length in enumerate(lengths):
            ids, labels = records[by_length[length].pop()]
            row["input_ids"] += ids
            row["labels"] += labels
            row["attention_mask"] += [place + 1] * length
            row["position_ids"] += list(range(length))
        pad = MAX_LENGTH - len(row["input_ids"])
        row["input_ids"] += [0] * pad
        row["labels"] += [-100] * pad
        row["attention_mask"] += [0] * pad
        row["position_ids"] += [0] * pad
        rows.append(row)
    return rows


def main() -> None:
    torch.set_num_threads(1)
    side, folder, base, precision, adapter = sys.argv[1:]
    case, packed, clock = Case(Path(folder), base, precision, adapter), side == "packed", Clock()
    with tempfile.TemporaryDirectory() as scratch:
        DatasetDict(train=Dataset.from_list(rows_of(case, packed=packed))).save_to_disk(f"{scratch}/tokens")
        each = AT_ONCE if packed else 8
        learned = base
        if precision == "fp32":  # it would load, and compute with, frozen weights in the type they were saved in
            learned = f"{scratch}/base"
            AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).save_pretrained(learned)
            AutoTokenizer.from_pretrained(base).save_pretrained(learned)
        args: dict[str, Any] = {
            "stage": "sft",
            "do_train": True,
            "model_name_or_path": learned,
            "template": "default",
            "dataset": "given",  # wanted, and not looked at beside `tokenized_path`
            "tokenized_path": f"{scratch}/tokens",
            "cutoff_len": MAX_LENGTH,
            "finetuning_type": adapter,
            "output_dir": f"{scratch}/out",
            "per_device_train_batch_size": each,
            "gradient_accumulation_steps": case.accumulate if packed else SEQUENCES // each,
            "num_train_epochs": 1,
            "learning_rate": LR,
            "lr_scheduler_type": "constant",
            "adam_beta1": BETAS[0],
            "adam_beta2": BETAS[1],
            "max_grad_norm": CLIP,
            "bf16": precision == "bf16",
            "use_cpu": True,
            "report_to": "none",
            "logging_steps": 10**6,
            "disable_gradient_checkpointing": True,
        }
        if adapter == "lora":
            args |= {"lora_rank": LORA_R, "lora_alpha": 2 * LORA_R, "lora_target": "all"}
        if packed:
            args |= {"neat_packing": True}
        run_exp(args, callbacks=[clock])
        model: Any = AutoModelForCausalLM.from_pretrained(base if adapter == "lora" else f"{scratch}/out")
        if adapter == "lora":
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, f"{scratch}/out")
        told(clock, case, model, len(clock.ends))


if __name__ == "__main__":
    main()
