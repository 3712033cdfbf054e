"""docs/benchmarks.md, from the newest results of each benchmark.

python benchmarks/tables.py > docs/benchmarks.md
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from house_format import ROOT

RESULTS = ROOT / "benchmarks" / "results"
HEAD = """# Measured

Written by `python benchmarks/tables.py` from the newest files in [benchmarks/results](../benchmarks/results); each
table names the command that measures it again. A peer runs in the same run on the same work, in turns with fettle, and
is installed from its package. **Ratios above 1 are fettle's**: of times and sizes the peer's by fettle's, of speeds
fettle's by the peer's. A row in *italics* is beside a limit, not beside a peer: what nobody can beat, or what was set
as a bound. Machines are noisy: what two files say is comparable only where one run wrote both.
"""
TAIL = """## Not measured here

| | why | where it could be |
|---|---|---|
| verl, OpenRLHF | start on GPUs alone (verl#3266; OpenRLHF pins flash-attn) | 8 GPUs, `recipes/gsm8k-grpo.yaml` |
| Unsloth | its kernels are Triton's | one GPU, with the settings of `benchmarks/sft_sides.py` |
| LoRAX | a container for CUDA | one GPU, with the clients of `benchmarks/serve_adapters.py` |
| Ray Serve LLM with adapters | takes them from remote addresses alone | beside an object store |
| TRL's GRPO with vLLM | its first sync fails: no `weight_loader` on vLLM's CPU weights | `rl.py --trl-vllm`, one GPU |
"""


@dataclass(frozen=True)
class Table:
    """title: its heading. files: of what results, without dates. command: that writes them. told: what is compared."""

    title: str
    files: tuple[str, ...]
    command: str
    told: str


TABLES = (
    Table(
        "Fine-tuning",
        (
            "sft-alpaca_en_demo",
            "sft-alpaca_en_demo-fp32",
            "sft-alpaca_en_demo-full",
            "sft-alpaca_en_demo-lora",
            "sft-c4_demo",
        ),
        "make bench-sft",
        "The sft stage, TRL's SFTTrainer, LLaMA-Factory and a bare packed loop on the same tokens of the same records,"
        " with the same optimizer and rate; the held-out loss is of the same answers. Padded and packed say how a"
        " side fills its batches; `trl-default` is TRL as it comes. Records of 512 tokens, of which a row holds one,"
        " are `--data ../shared/data/pretrain/c4_demo.jsonl --steps 4`.",
    ),
    Table(
        "What holds a step of fine-tuning back",
        ("sft-profile",),
        "python benchmarks/sft_profile.py",
        "In float32 more than half of a step are matrix products, at what the core can do or near it, the same on all"
        " sides: 1.2 times LLaMA-Factory would want all else in five sixths of what it takes. Norms and rotary"
        " positions as single operations, written by hand and tried, gave 0 to 2 %. In bfloat16 the products take a"
        " quarter of that, and what fettle does otherwise counts: short records attend in float32, where torch's kernel"
        " is faster; rows of few widths, for which oneDNN compiles no new kernels; LoRA's inputs cast once. Two workers"
        " share two cores with the driver and Ray, which take a twentieth of them.",
    ),
    Table(
        "From a command to its first step",
        ("start-demo", "start-imports", "start-steps"),
        "make bench-start",
        "What fettle itself takes: the demo's minutes, the imports of its processes, and a step in a Ray Train worker"
        " against the bare loop, which has glibc's allocator where workers have jemalloc.",
    ),
    Table(
        "Reinforcement learning",
        ("rl",),
        "make bench-rl",
        "GRPO, phase by phase, beside TRL's GRPOTrainer and beside vLLM and a packed loop with nothing around them.",
    ),
    Table(
        "Serving",
        ("serve",),
        "make bench-serve",
        "The endpoint beside vLLM's own server and Ray Serve LLM, one engine of one thread each. `tiny`'s tokens cost"
        " the engine next to nothing, so that what is measured is the way to it; those of `random-100m` cost 20 ms and"
        " more.",
    ),
    Table(
        "Many adapters",
        ("serve_adapters", "engine-lora"),
        "make bench-adapters",
        "LoRA adapters over one base: the endpoint beside vLLM's own server, and inside the engine fettle's products of"
        " adapters beside vLLM's.",
    ),
    Table(
        "Under load and failure",
        ("serving_faults",),
        "python benchmarks/serving_faults.py",
        "Versions published, replicas and engines killed, many adapters in few places.",
    ),
    Table(
        "Sweeps",
        ("sweeps-trials", "sweeps-asha"),
        "make bench-sweeps",
        "Eight trials over one base against eight runs, and ASHA against the grid.",
    ),
    Table(
        "Data",
        ("data", "data_tokens"),
        "make bench-data",
        "Checking, tokenizing and packing, beside TRL's preparation.",
    ),
)


def page() -> str:
    """All of it."""
    told = [(table, [one for name in table.files if (one := newest(name)) is not None]) for table in TABLES]
    return "\n".join([HEAD, *(section(table, results) for table, results in told if results), TAIL])


def section(table: Table, results: list[dict[str, Any]]) -> str:
    """One heading with its rows."""
    lines = [f"## {table.title}", "", f"    {table.command}", "", table.told]
    for one in results:
        lines += ["", f"{one['date']}, {one['machine']}:", "", "| | fettle | beside it | ratio |", "|---|---|---|---|"]
        lines += [_line(row) for row in one["rows"]]
    return "\n".join(lines) + "\n"


def newest(name: str) -> dict[str, Any] | None:
    """The last results of that name, if there are any."""
    files = [file for file in RESULTS.glob(f"{name}-*.json") if re.fullmatch(rf"{name}-\d{{4}}-\d\d-\d\d", file.stem)]
    return json.loads(max(files).read_text(encoding="utf-8")) if files else None


def _line(row: dict[str, Any]) -> str:
    mark, unit = "*" if row["limit"] else "", row["unit"]
    head = f"| {mark}{row['what']}{mark} | {_number(row['fettle'])} {unit} |"
    if not row.get("peer_value"):  # a figure of its own, or one that is to be none
        return f"{head} {row.get('peer', '')} | |"
    return f"{head} {row['peer']}: {_number(row['peer_value'])} {unit} | {row['ratio']:.2f} |"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    print(page(), end="")
