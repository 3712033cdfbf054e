"""One configuration trained by the real stage code on random weights, in one fresh process per worker: its peak memory.

    python benchmarks/memory_cases.py CASE RANK FOLDER      (what memory_plan.py starts)

The peak is what the process's resident memory rose to above its level right before anything was loaded, with all that
is imported imported: VmHWM after it was reset, less VmRSS.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LENGTH, STEPS = 256, 2
_LLAMA = {"model_type": "llama", "vocab_size": 16384, "max_position_embeddings": 512, "tie_word_embeddings": False}
MODELS: dict[str, dict[str, Any]] = {
    "llama-152m": _LLAMA
    | {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 18, "num_attention_heads": 12},
    "llama-290m": _LLAMA
    | {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 20, "num_attention_heads": 16},
    "qwen3-202m": {
        "model_type": "qwen3",
        "vocab_size": 32768,
        "max_position_embeddings": 512,
        "hidden_size": 896,
        "intermediate_size": 2432,
        "num_hidden_layers": 20,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "tie_word_embeddings": True,
    },
    "gpt2-163m": {
        "model_type": "gpt2",
        "vocab_size": 16384,
        "n_positions": 512,
        "n_embd": 960,
        "n_layer": 13,
        "n_head": 15,
    },
}


@dataclass(frozen=True)
class Case:
    """model: of MODELS. adapter: as a recipe says it. sequences: of LENGTH tokens, of a step, over all workers."""

    model: str
    adapter: dict[str, Any] = field(default_factory=lambda: {"kind": "full"})
    workers: int = 1
    zero: int = 0
    checkpointing: bool = False
    precision: str = "fp32"
    sequences: int = 2
    accumulate: int = 1
    stored: str = "bfloat16"


_LORA = {"kind": "lora", "r": 16}
_QLORA = {"kind": "lora", "r": 16, "bits": 4}
_LISA = {"kind": "lisa", "layers": 2, "every": 1}
CASES: dict[str, Case] = {
    "full": Case("llama-152m"),
    "full, checkpointing": Case("llama-152m", checkpointing=True),
    "full, bf16": Case("llama-152m", precision="bf16"),
    "full, 2 workers, ZeRO 0": Case("llama-152m", workers=2),
    "full, 2 workers, ZeRO 1": Case("llama-152m", workers=2, zero=1),
    "full, 2 workers, ZeRO 2": Case("llama-152m", workers=2, zero=2),
    "full, 2 workers, ZeRO 2, checkpointing": Case("llama-152m", workers=2, zero=2, checkpointing=True),
    "full, 2 workers, ZeRO 3": Case("llama-152m", workers=2, zero=3),
    "full, 2 workers, ZeRO 3, checkpointing": Case("llama-152m", workers=2, zero=3, checkpointing=True),
    "lora": Case("llama-290m", _LORA),
    "lora, checkpointing": Case("llama-290m", _LORA, checkpointing=True),
    "lora, bf16": Case("llama-290m", _LORA, precision="bf16"),
    "lora, 2 workers, ZeRO 2": Case("llama-290m", _LORA, workers=2, zero=2),
    "lora, 2 workers, ZeRO 3": Case("llama-290m", _LORA, workers=2, zero=3),
    "qlora": Case("llama-290m", _QLORA),
    "qlora, checkpointing": Case("llama-290m", _QLORA, checkpointing=True),
    "qlora, 2 workers, ZeRO 2": Case("llama-290m", _QLORA, workers=2, zero=2),
    "lisa": Case("llama-290m", _LISA),
    "lisa, checkpointing": Case("llama-290m", _LISA, checkpointing=True),
}
HELD_OUT: dict[str, Case] = {
    "held out: full, Qwen3": Case("qwen3-202m", sequences=6),
    "held out: full, GPT-2, checkpointing": Case("gpt2-163m", checkpointing=True, accumulate=2),
    "held out: full, Qwen3, 2 workers, ZeRO 2": Case("qwen3-202m", workers=2, zero=2, sequences=6),
    "held out: full, GPT-2, 2 workers, ZeRO 3": Case("gpt2-163m", workers=2, zero=3),
    "held out: lora, Qwen3, bf16": Case("qwen3-202m", _LORA, precision="bf16", sequences=8),
    "held out: qlora, Qwen3, checkpointing": Case("qwen3-202m", _QLORA, checkpointing=True, sequences=6),
    "held out: lisa, Qwen3": Case("qwen3-202m", _LISA, sequences=6, stored="float32"),
}


def spec_of(case: Case) -> Any:
    """The stage, as a recipe has it."""
    from fettle.recipe.kinds import PretrainStage

    return PretrainStage(
        name="memory",
        kind="pretrain",
        data="none.txt",
        max_steps=STEPS,
        batch={"sequences": case.sequences, "accumulate": case.accumulate},
        max_length=LENGTH,
        gradient_checkpointing=case.checkpointing,
        checkpoint={"every": 1},
        heldout={"fraction": 0.02, "max": 2},
    )


def cluster_of(case: Case) -> Any:
    """The worker group, as a recipe has it."""
    from fettle.recipe.cluster import ClusterSpec

    return ClusterSpec(workers=case.workers, zero=case.zero, precision=case.precision)


def make(case: Case, folder: Path, seed: int = 0) -> None:
    """The base, of random weights, the tokens and the fence below `folder`."""
    import numpy as np
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    from fettle.data.tokens import TokenExample, write_tokens
    from fettle.models.base import BUNDLED, load_tokenizer

    keys = dict(MODELS[case.model])
    config = CONFIG_MAPPING[keys.pop("model_type")](**keys)
    torch.manual_seed(seed)
    dtype = getattr(torch, case.stored)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.config.dtype = dtype
    model.save_pretrained(folder / "base")
    load_tokenizer(BUNDLED["tiny"]).save_pretrained(folder / "base")
    ids = np.random.default_rng(seed).integers(4, 4096, size=(256, LENGTH), dtype=np.int32)
    write_tokens(folder / "tokens", [TokenExample(one, np.ones(LENGTH, dtype=bool)) for one in ids])
    (folder / ".epoch").write_text("memory")


def measure(case: Case, rank: int, folder: Path) -> dict[str, float]:
    """MiB: the level before loading, and how far the peak rose above it."""
    os.environ |= {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    if case.workers > 1:
        size = str(case.workers)
        told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
        os.environ |= {key: str(value) for key, value in told.items()}
    import bitsandbytes  # noqa: F401
    import torch
    from transformers import AutoModelForCausalLM

    import fettle.train.causal
    import fettle.train.stage  # noqa: F401
    from fettle.recipe.adapter import AdapterSpec
    from fettle.train.checkpoint import Fence
    from fettle.train.job import GroupMember
    from fettle.train.stages.pretrain import pretrain
    from fettle.train.worker import run_member
    from fettle.train.zero import load_deepspeed
    from one_stage import job_of

    load_deepspeed()
    keys = dict(MODELS[case.model])
    from transformers import CONFIG_MAPPING

    with torch.device("meta"):
        AutoModelForCausalLM.from_config(CONFIG_MAPPING[keys.pop("model_type")](**keys))  # imports the model's code
    if case.workers > 1:
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=case.workers
        )
    member = GroupMember(rank, case.workers, cluster_of(case), Fence(folder / ".epoch", "memory"))
    gc.collect()
    level = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    adapter = AdapterSpec.model_validate(case.adapter)
    told: Any = {"max_length": LENGTH, "adapter": adapter, "precision": case.precision}
    run_member([(job_of(spec_of(case), folder, folder / "tokens", folder / "base", **told), pretrain)], member, None)
    return {"level": level, "peak": _resident("VmHWM") - level}


def _resident(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) / 1024


if __name__ == "__main__":
    name, told_rank, where = sys.argv[1:]
    print(json.dumps(measure((CASES | HELD_OUT)[name], int(told_rank), Path(where))))
