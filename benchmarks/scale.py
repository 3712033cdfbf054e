"""The tables and the plot of docs/scale.md: 7B, 70B and a MoE of 400B on 8 to 1,024 GPUs, on paper and by simulation.

python benchmarks/scale.py            # prints the tables, draws docs/images/scale.svg; a few seconds
"""

from __future__ import annotations

import math
import random
from dataclasses import replace

from house_format import ROOT
from scale_costs import (
    H100,
    H200,
    LLAMA_70B,
    MAVERICK,
    MODELS,
    QWEN_7B,
    Gpus,
    How,
    Model,
    decoding,
    engine_width,
    flops_a_token,
    memory,
    step,
)
from scale_limits import (
    broadcast_sync_seconds,
    checkpoint_bytes,
    checkpoint_seconds,
    file_sync_seconds,
    newest_rates,
    resume_seconds,
    ring_sync_seconds,
)
from scale_simulator import Iteration, Setting, Told, simulate

COUNTS = (8, 16, 64, 256, 1024)
BATCH, ROW = 1 << 22, 4096
ANSWERS, MEAN, SPREAD, LONGEST = 2048, 2000, 0.8, 8192
ITERATIONS = 20
# Llama 3 (arXiv:2407.21783, 3.3.4): 419 unexpected interruptions in 54 days of 16,384 GPUs.
GPU_FAILS_S = 54 * 86400 * 16384 / 419
# Half a minute to begin a group (measured here with two workers), and minutes to load a large model: an assumption.
RESTART_S, ENGINE_START_S = 300.0, 180.0
LORA = 0.0025  # rank 16 in all linear layers of a 7B: 40 of 7,620 million; of larger ones less
TRAINING: list[tuple[str, Gpus, Model, How]] = [
    ("full, ZeRO 2", H100, QWEN_7B, How(2)),
    ("full, ZeRO 3", H100, QWEN_7B, How(3)),
    ("LoRA, ZeRO 2", H100, QWEN_7B, How(2, lora=LORA)),
    ("full, ZeRO 3", H100, LLAMA_70B, How(3)),
    ("LoRA, ZeRO 3", H100, LLAMA_70B, How(3, lora=LORA)),
    ("QLoRA, ZeRO 2", H100, LLAMA_70B, How(2, lora=LORA, bits=4)),
    ("full, ZeRO 3", H200, MAVERICK, How(3)),
    ("LoRA, ZeRO 3", H200, MAVERICK, How(3, lora=LORA)),
]


def training_table() -> str:
    """Seconds of a step of 4.2 million tokens, the share of the peak it uses, and of the time that collectives take;
    the memory a GPU would need where it does not fit."""
    rows = []
    for what, gpu, model, how in TRAINING:
        cells = []
        for count in COUNTS:
            found = step(gpu, model, how, count, BATCH, ROW)
            if found is None:
                cells.append(f"{memory(model, how, count, ROW) / 1e9:,.0f} GB")
            else:
                cells.append(f"{found.seconds:,.1f} s, {found.mfu:.0%} ({found.collectives / found.seconds:.0%})")
        rows.append([f"{model.name}, {what}, {gpu.name}", *cells])
    return table(["", *(f"{count:,} GPUs" for count in COUNTS)], rows)


def rl_setting(gpu: Gpus, model: Model, how: How, count: int, staleness: int) -> tuple[Setting, float, float] | None:
    """(what the simulator is told; seconds of learning, of a forward pass) with half of the GPUs as engines."""
    width, learners = engine_width(gpu, model), count // 2
    found = step(gpu, model, how, learners, BATCH, ROW)
    if width is None or width > learners or found is None:
        return None
    forward = flops_a_token(model, ROW, forward_only=True) * BATCH / learners / gpu.flops / gpu.mfu
    told = decoding(gpu, model, width)
    sha = newest_rates()["sha256, bytes a second"]
    waits, writes, sums = checkpoint_seconds(gpu, model, learners, sha)
    setting = Setting(
        engines=learners // width,
        staleness=staleness,
        decode=lambda lengths: told.seconds(list(lengths), prompt=500),
        learners=learners,
        jitter=0.03,
        checkpoint_every=5,
        checkpoint_s=waits,
        writing_s=writes + sums,
        group_fails_s=GPU_FAILS_S / learners,
        restart_s=RESTART_S + resume_seconds(gpu, model, sha),
        engine_fails_s=GPU_FAILS_S / width,
        engine_start_s=ENGINE_START_S,
    )
    return setting, found.seconds, forward


def sync_seconds(gpu: Gpus, model: Model, engines: int, learners: int, how: str) -> float:
    """Of full weights."""
    if how == "file":
        return file_sync_seconds(gpu, model, engines, newest_rates()["crc32, bytes a second"])
    if how == "broadcast":
        return broadcast_sync_seconds(gpu, model, engines)
    return ring_sync_seconds(gpu, model, learners)


def answers(seed: int) -> list[list[int]]:
    """Lengths of an iteration's answers, 16 to a prompt: a log-normal's, cut off."""
    draw, mu = random.Random(seed), math.log(MEAN) - SPREAD**2 / 2
    drawn = [max(1, min(LONGEST, round(draw.lognormvariate(mu, SPREAD)))) for _ in range(ANSWERS)]
    return [drawn[at : at + 16] for at in range(0, ANSWERS, 16)]


def rl_run(gpu: Gpus, model: Model, how: How, count: int, staleness: int, sync: str) -> tuple[Setting, Told] | None:
    """Twenty iterations of 2,048 answers."""
    found = rl_setting(gpu, model, how, count, staleness)
    if found is None:
        return None
    setting, learn, forward = found
    rates, tokens = newest_rates(), ANSWERS * MEAN
    writes = tokens / rates["rollouts written, tokens a second"]  # before they are learned from, and once more
    reads = tokens / rates["rollouts read, tokens a second"]
    told = sync_seconds(gpu, model, setting.engines, setting.learners, sync)
    once = {"learn": learn, "reference": forward, "sync": told, "score": writes, "other": writes + reads}
    work = [Iteration(**once, lengths=answers(number)) for number in range(ITERATIONS)]
    return setting, simulate(work, setting)


def rl_table() -> str:
    """Seconds of an iteration."""
    ways = [(0, "file"), (0, "broadcast"), (1, "broadcast"), (1, "ring")]
    rows = []
    for gpu, model in ((H100, QWEN_7B), (H100, LLAMA_70B), (H200, MAVERICK)):
        for count in COUNTS:
            runs = [rl_run(gpu, model, How(3), count, ahead, sync) for ahead, sync in ways]
            there = [one for one in runs if one is not None]
            if there:
                cells = [f"{told.seconds / ITERATIONS:,.0f} s" for _, told in there]
                busy = f"{there[2][1].learner_busy / there[2][1].seconds:.0%}"
                rows.append([f"{model.name}, {gpu.name}", f"{count:,}", f"{there[0][0].engines}", *cells, busy])
    return table(
        ["", "GPUs", "engines", *(f"{'ahead' if s else 'turns'}, {how}" for s, how in ways), "learners busy"], rows
    )


def sync_table() -> str:
    """Seconds for all engines to have full weights."""
    rows = []
    for model in MODELS:
        for engines in (1, 8, 64):
            seconds = [sync_seconds(H100, model, engines, engines * 4, how) for how in ("file", "broadcast", "ring")]
            adapter = replace(model, weights=model.weights * LORA * 2)  # float32
            seconds.append(sync_seconds(H100, adapter, engines, engines * 4, "file"))
            rows.append([model.name, str(engines), *(f"{one:,.1f} s" for one in seconds)])
    return table(["", "engines", "file", "broadcast", "ring (not built)", "LoRA's adapter, file"], rows)


def checkpoint_table() -> str:
    """Of full training on 256 GPUs."""
    sha, rows = newest_rates()["sha256, bytes a second"], []
    for model in MODELS:
        size = checkpoint_bytes(model)
        waits, _, sums = checkpoint_seconds(H100, model, 256, sha)
        again = resume_seconds(H100, model, sha)
        written = [f"{size / rate:,.0f} s" for rate in (1e9, 1e10, 1e11)]
        disk = [f"{size / 1e9:,.0f} GB", f"{3 * size / 1e12:.1f} TB"]
        rows.append([model.name, *disk, *written, f"{waits:.2f} s", f"{sums:,.0f} s", f"{again:,.0f} s"])
    heads = [
        "size",
        "kept: 2, and one being written",
        "at 1 GB/s",
        "10 GB/s",
        "100 GB/s",
        "training waits",
        "summed up",
    ]
    return table(["", *heads, "read before going on"], rows)


def failing(every: int, minutes: float, count: int, seeds: int = 3) -> float:
    """Share of the time that counts, of 80 hours of steps of 30 s: a checkpoint every so many, which is there some
    minutes later."""
    setting = Setting(
        checkpoint_every=every,
        checkpoint_s=1.0,
        writing_s=60 * minutes,
        group_fails_s=GPU_FAILS_S / count,
        restart_s=RESTART_S,
    )
    work = [Iteration(learn=30.0)] * 9600
    told = [simulate(work, replace(setting, seed=seed)) for seed in range(seeds)]
    return sum(30.0 * len(work) / one.seconds for one in told) / seeds


def failure_table() -> str:
    """Of 1,024 GPUs, where one fails every two days, and of 16,384, where one does every three hours."""
    rows = []
    for count in (1024, 16384):
        for every in (10, 60, 240):
            cells = [f"{failing(every, minutes, count):.1%}" for minutes in (1, 30)]
            rows.append([f"{count:,}", f"{every * 30 / 60:,.0f} minutes", *cells])
    return table(["GPUs", "a checkpoint every", "there 1 minute later", "30 minutes later"], rows)


def table(heads: list[str], rows: list[list[str]]) -> str:
    """In Markdown."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [heads, ["---"] * len(heads), *rows])


def plot() -> None:
    """MFU over GPUs: as fettle is, and with collectives in bf16, most of which arithmetic hides."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7.6, 4.2))
    counts = [2**n for n in range(3, 11)]
    chosen = [TRAINING[0], TRAINING[3], TRAINING[6]]
    for (what, gpu, model, how), colour in zip(chosen, ("#2f6db3", "#c4622d", "#4a8a4a"), strict=True):
        for changed, style in ((how, "-"), (replace(how, overlap=0.7, width=2), ":")):
            found = [(count, step(gpu, model, changed, count, BATCH, ROW)) for count in counts]
            points = [(count, 100 * one.mfu) for count, one in found if one is not None]
            label = None if changed.overlap else f"{model.name.partition(' (')[0]}, {what}, {gpu.name}"
            axes.plot(*zip(*points, strict=True), style, color=colour, label=label, linewidth=1.6)
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [f"{count:,}" for count in counts])
    axes.set_xlabel("GPUs")
    axes.set_ylabel("% of the peak (MFU), on paper")
    axes.set_ylim(0, 35)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=9, ncols=3, loc="lower left", bbox_to_anchor=(-0.02, 1.0))
    axes.text(9, 1.5, "dotted: with collectives in bf16, 70 % of them hidden", fontsize=9)
    figure.tight_layout()
    figure.savefig(ROOT / "docs" / "images" / "scale.svg", metadata={"Date": None})


def main() -> None:
    made = {
        "Training": training_table,
        "Reinforcement learning": rl_table,
        "Sync": sync_table,
        "Checkpoints": checkpoint_table,
        "Failures": failure_table,
    }
    for title, table_of in made.items():
        print(f"\n## {title}\n\n{table_of()}")
    plot()


if __name__ == "__main__":
    main()
