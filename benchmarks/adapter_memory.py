"""Memory of a training step with each adapter: a random Llama of 60 million weights in float32, one row of 128 tokens.

Each case in a process of its own. Weights, gradients and optimizer state are counted tensor by tensor; the peak is the
weights and what the process held at most during three steps beyond what it held before them. Its peer is full training.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/adapter_memory.py
"""

from __future__ import annotations

import ctypes
import gc
import json
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from fettle.models.adapters import attach
from fettle.models.base import load_weights
from fettle.models.layers import freeze_below
from fettle.models.stored import Quantised
from fettle.recipe.adapter import AdapterSpec
from fettle.recipe.optimizer import OptimizerSpec
from fettle.train.lisa import Lisa
from fettle.train.optimizers import make_optimizer, parameter_groups
from house_format import peak_mib, row, write_results

CASES: dict[str, dict[str, Any]] = {
    "full": {"kind": "full"},
    "full, adamw_8bit": {"kind": "full"},
    "freeze, 2 layers": {"kind": "freeze"},
    "lisa, 2 layers": {"kind": "lisa"},
    "lora, r 16": {"kind": "lora"},
    "lora, r 16, bits 8": {"kind": "lora", "bits": 8},
    "lora, r 16, bits 4": {"kind": "lora", "bits": 4},
    "dora, r 16": {"kind": "dora"},
    "dora, r 16, bits 4": {"kind": "dora", "bits": 4},
    "ia3": {"kind": "ia3"},
    "ia3, bits 4": {"kind": "ia3", "bits": 4},
    "prefix, 16 tokens": {"kind": "prefix"},
    "prompt, 16 tokens": {"kind": "prompt"},
    "bottleneck, size 64": {"kind": "bottleneck"},
}
_AT_ONCE = 7
ROWS, TOKENS, STEPS = 1, 128, 3


def main() -> None:
    """Measures every case and writes the results."""
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=8192,
                hidden_size=512,
                intermediate_size=1408,
                num_hidden_layers=16,
                num_attention_heads=8,
                max_position_embeddings=512,
            )
        )
        model.save_pretrained(folder)
        del model
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            told = dict(zip(CASES, pool.map(lambda case: _alone(case, folder), CASES), strict=True))
    full = told["full"]
    rows = [
        row(
            f"{case}: {what}", "MiB", one[what], "full training, adamw", full[what], full[what] / one[what], limit=False
        )
        for case, one in told.items()
        if case != "full"
        for what in ("peak", "weights", "gradients", "optimizer")
    ]
    write_results("adapter_memory", rows, "1 thread")


def _alone(case: str, folder: str) -> dict[str, float]:
    """The case measured in a process of its own."""
    run = subprocess.run([sys.executable, __file__, case, folder], stdout=subprocess.PIPE, check=True, text=True)
    told: dict[str, float] = json.loads(run.stdout.splitlines()[-1])
    print(f"{case:22}", told, flush=True)
    return told


def measure(case: str, folder: Path) -> dict[str, float]:
    """MiB of a case: peak, weights, gradients, optimizer; and how many weights are trained."""
    spec = AdapterSpec.model_validate(CASES[case])
    optimizer_spec = OptimizerSpec(kind="adamw_8bit" if case.endswith("8bit") else "adamw")
    model: Any = load_weights(folder, torch.float32 if spec.bits is None else Quantised(spec.bits, torch.float32))
    if spec.kind == "freeze":
        assert spec.layers is not None
        freeze_below(model, spec.layers)
    if spec.is_beside:
        model = attach(model, spec, folder, seed=0)
    optimizer = make_optimizer(optimizer_spec, parameter_groups(model, (), 0.0), 1e-4)
    lisa = Lisa(model, count=2, every=20, seed=0) if spec.kind == "lisa" else None
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # gives back what loading has freed
    sum(weight.float().sum() for weight in model.parameters())  # mapped files are read
    Path("/proc/self/clear_refs").write_text("5")  # the peak of the steps, not of loading
    before = peak_mib()
    torch.manual_seed(1)
    ids, positions = torch.randint(0, 8192, (ROWS, TOKENS)), torch.arange(TOKENS).repeat(ROWS, 1)
    model.train()
    for _ in range(STEPS):
        if lisa is not None:
            lisa.on_step_begin(None, _FirstTurn, None, optimizer)
        logits = model(input_ids=ids, position_ids=positions, use_cache=False).logits
        torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
        del logits
        gradients = _mebibytes(weight.grad for weight in model.parameters() if weight.grad is not None)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    moments = (value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value))
    weights = round(_mebibytes(model.parameters()) + _mebibytes(_scales(model)), 2)
    return {
        "peak": round(weights + peak_mib() - before),
        "weights": weights,
        "gradients": gradients,
        "optimizer": _mebibytes(moments),
        "trained": sum(weight.numel() for weight in model.parameters() if weight.requires_grad),
    }


class _FirstTurn:
    global_step = 0


def _scales(model: torch.nn.Module) -> list[torch.Tensor]:
    """What quantised weights are multiplied by."""
    found = []
    for module in model.modules():
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        if state is not None:
            found += [state.absmax, state.state2.absmax]
        scales = getattr(getattr(module, "state", None), "SCB", None)
        found += [scales] if scales is not None else []
    return found


def _mebibytes(tensors: Any) -> float:
    """Of the tensors' memory, each counted once."""
    sizes = {one.data_ptr(): one.numel() * one.element_size() for one in tensors}
    return round(sum(sizes.values()) / 2**20, 2)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(json.dumps(measure(sys.argv[1], Path(sys.argv[2]))))
    else:
        main()
