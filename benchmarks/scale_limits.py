"""What one process does for all the others, and how fast: where a design with a driver and a first worker stops.

    python benchmarks/scale_limits.py        # measures these rates here, in half a minute, without Ray

Writes results/scale_limits-DATE.json, which `scale.py` reads.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import random
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fettle.data.batches import share_out
from fettle.engine.sampling import Completion
from fettle.rl.engines import Answered
from fettle.rl.rollout import Judged, Rollout
from fettle.rl.stored import read_rollouts, write_rollouts
from fettle.train.checkpoint import Fence
from house_format import ROOT, write_results
from scale_costs import Gpus, Model

BLOCK = 256 << 20
ANSWERS, LENGTH = 512, 1024


def best(work: Callable[[], object], times: int = 3) -> float:
    """Seconds of the quickest of a few: what else a machine does only adds."""
    found = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return min(found)


def rollouts() -> list[Judged]:
    """Made-up ones, with text as long as real ones have."""
    draw = np.random.default_rng(0)
    found = []
    for number in range(ANSWERS):
        ids = draw.integers(150_000, size=LENGTH, dtype=np.int32)
        logprobs, mask = -draw.exponential(size=LENGTH).astype(np.float32), np.ones(LENGTH, bool)
        words = "word " * (LENGTH * 4 // 5)
        one = Rollout(number // 8, number % 8, ids[:128], ids, logprobs, mask, 0, "stop", words)
        found.append(Judged(one, {"reward": 1.0}, 1.0))
    return found


def rates() -> dict[str, float]:
    """Of one thread here: bytes or tokens a second, and seconds of a step's sharing out."""
    told: dict[str, float] = {}
    block = os.urandom(BLOCK)
    told["sha256, bytes a second"] = BLOCK / best(lambda: hashlib.sha256(block))
    told["crc32, bytes a second"] = BLOCK / best(lambda: zlib.crc32(block))
    made, tokens = rollouts(), ANSWERS * LENGTH
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        (Path(folder) / "epoch").write_text("limits")
        file, fence = Path(folder) / "0.npz", Fence(Path(folder) / "epoch", "limits")
        told["rollouts written, tokens a second"] = tokens / best(lambda: write_rollouts(file, made, fence))
        told["rollouts on the disk, bytes a token"] = file.stat().st_size / tokens
        told["rollouts read, tokens a second"] = tokens / best(lambda: read_rollouts(file))
    said = [
        Answered(
            (Completion(one.rollout.text, one.rollout.output_ids.tolist(), one.rollout.logprobs.tolist(), "stop"),), 0
        )
        for one in made
    ]
    sent = pickle.dumps(said, protocol=5)
    told["answers from an engine, bytes a token"] = len(sent) / tokens
    told["answers unpickled, tokens a second"] = tokens / best(lambda: pickle.loads(sent))
    draw = random.Random(0)
    lengths = [draw.randint(64, 4096) for _ in range(2048)]
    told["2,048 records shared out to 1,024 workers, seconds"] = best(lambda: share_out(lengths, 1024))
    return told


def newest_rates() -> dict[str, float]:
    """What was measured last."""
    file = max((ROOT / "benchmarks" / "results").glob("scale_limits-*.json"))
    return {row["what"]: row["fettle"] for row in json.loads(file.read_text())["rows"]}


# --- what they make of a model
# -----------------------------------------------------------------------------------------

STREAM = 2e9  # bytes a second of one process with shared storage, either way: an assumption
THREADS = 32  # of a machine with GPUs, or the head: an assumption


def checkpoint_bytes(model: Model) -> float:
    """Of full training: float32 weights and two moments (train/state.py)."""
    return 12 * model.weights


def checkpoint_seconds(gpu: Gpus, model: Model, gpus: int, sha256: float) -> tuple[float, float, float]:
    """(training waits, all pieces are written, each worker has summed up its own; train/writer.py)."""
    size = checkpoint_bytes(model)
    return size / gpus / gpu.pcie, size / min(gpu.storage, gpus * STREAM), size / gpus / min(sha256, STREAM)


def resume_seconds(gpu: Gpus, model: Model, sha256: float) -> float:
    """The driver, and then the first worker, read every byte of the checkpoint that is taken (`Checkpoints.latest`),
    in as many threads as they have cores."""
    return 2 * checkpoint_bytes(model) / min(gpu.storage, THREADS * min(sha256, STREAM))


def file_sync_seconds(gpu: Gpus, model: Model, engines: int, crc: float) -> float:
    """Full weights as a bf16 file (rl/sync.py): one process copies, writes and sums them up; each engine sums them up
    and reads them, all at once from the same storage."""
    size = 2 * model.weights
    writes = size / gpu.pcie + size / STREAM + size / min(crc, STREAM)
    return writes + 2 * size / min(crc, STREAM, gpu.storage / engines)


def broadcast_sync_seconds(gpu: Gpus, model: Model, engines: int) -> float:
    """Full weights from the first worker's memory (engine/channel.py): to the host, and over its GPU's one adapter to
    each engine for itself."""
    size = 2 * model.weights
    return size / gpu.pcie + engines * size / min(gpu.pcie, gpu.nic)


def ring_sync_seconds(gpu: Gpus, model: Model, learners: int) -> float:
    """What it would take if each of up to eight learners of a node sent its part of the weights, and engines passed on
    what they have: not built."""
    size = 2 * model.weights
    return size / (min(learners, gpu.a_node) * min(gpu.pcie, gpu.nic) * gpu.bus)


def main() -> None:
    told = rates()
    rows = [{"what": what, "unit": what.rpartition(", ")[2], "fettle": value} for what, value in told.items()]
    for what, value in told.items():
        print(f"{what}: {value:,.3f}" if value < 100 else f"{what}: {value:,.0f}")
    write_results("scale_limits", rows, "one thread")


if __name__ == "__main__":
    main()
