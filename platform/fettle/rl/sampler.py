"""How a stage's engines are built."""

from __future__ import annotations

from fettle.engine import EngineOptions
from fettle.engine.env import Dtype
from fettle.recipe.cluster import ClusterSpec, Precision
from fettle.rl.job import RlJob

_MOST_SEQUENCES = 256
_DTYPES: dict[Precision, Dtype] = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
_MOST_APART = {"fp32": 1e-3, "bf16": 1.0, "fp16": 0.3}
"""Nats by which the log-probability of a single token may differ: float32 differs by 1e-5 on CPUs, bfloat16's own noise
is 0.2 to 0.6 at the largest token (rollouts.md 4)."""


def engine_options(job: RlJob, cluster: ClusterSpec) -> EngineOptions:
    """In the learner's precision, so that both say the same of a token; with LoRA layers only for a policy that has
    them."""
    spec = job.spec
    answers = -(-spec.rollout.prompts * spec.rollout.samples_per_prompt // spec.rollout.engines)
    is_plain = spec.rollout.temperature == 1 and spec.rollout.top_p == 1
    has_adapter = job.adapter.is_beside
    return EngineOptions(
        dtype=_DTYPES[job.precision],
        max_model_len=job.max_length,
        max_num_seqs=min(_MOST_SEQUENCES, answers),
        max_loras=1 if has_adapter else 0,
        max_lora_rank=job.adapter.r or 8,
        seed=job.seed,
        # More cores are better used by more engines: threads of one wait for each other, and beside any other work on
        # these cores they spin (25 s for what takes 1, 2026-11).
        threads=cluster.cpus_per_worker,
        logprobs="raw" if is_plain else "processed",
        takes_weights=None if has_adapter else spec.rollout.transfer,
        tensor_parallel=spec.rollout.tensor_parallel,
        sleeps=spec.rollout.placement == "shared",
        gpu_memory=spec.rollout.gpu_memory,
    )


def most_apart(job: RlJob, cluster: ClusterSpec) -> float:
    """By how much an engine may differ from the learner on the probe, in nats."""
    # GPUs multiply float32 with fewer bits.
    return _MOST_APART[job.precision] * (10 if cluster.gpus_per_worker and job.precision == "fp32" else 1)
