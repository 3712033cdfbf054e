"""How engines are built for a job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_rl import make_job

from fettle.recipe.adapter import FULL, AdapterSpec
from fettle.recipe.cluster import ClusterSpec
from fettle.rl.sampler import engine_options, most_apart

CPUS = ClusterSpec(cpus_per_worker=3)
GPUS = ClusterSpec(gpus_per_worker=1)
LORA = AdapterSpec(kind="lora", r=4)


@pytest.fixture
def job(tmp_path: Path, stage: Any) -> Any:
    """`job(rollout=, max_staleness=, **fields of the job)`."""

    def make(rollout: dict[str, Any] | None = None, max_staleness: int = 0, **told: Any) -> Any:
        return make_job(tmp_path, stage("grpo", rollout=rollout or {}, max_staleness=max_staleness), **told)

    return make


def test_an_engine_is_what_the_job_says(job) -> None:
    found = engine_options(job(seed=7, max_length=96), CPUS)
    assert (found.max_model_len, found.seed, found.threads, found.tensor_parallel) == (96, 7, 3, 1)


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", "float32"), ("bf16", "bfloat16"), ("fp16", "float16")])
def test_an_engine_computes_as_the_learner_does(job, precision, dtype) -> None:
    assert engine_options(job(precision=precision), CPUS).dtype == dtype


@pytest.mark.parametrize(
    ("adapter", "layers", "takes_weights"),
    [(LORA, (1, 4), None), (FULL, (0, 8), "file"), (AdapterSpec(kind="freeze"), (0, 8), "file")],
)
def test_only_a_policy_with_an_adapter_has_layers_for_one(job, adapter, layers, takes_weights) -> None:
    found = engine_options(job(adapter=adapter), CPUS)
    assert ((found.max_loras, found.max_lora_rank), found.takes_weights) == (layers, takes_weights)


@pytest.mark.parametrize(
    ("rollout", "sequences"),
    [
        ({"prompts": 4, "samples_per_prompt": 4}, 16),
        ({"prompts": 16, "samples_per_prompt": 8, "engines": 3}, 43),  # 128 / 3 = 42.7
        ({"prompts": 100, "samples_per_prompt": 8}, 256),  # at most
    ],
)
def test_an_engine_has_room_for_its_share_of_the_answers(job, rollout, sequences) -> None:
    assert engine_options(job(rollout), CPUS).max_num_seqs == sequences


@pytest.mark.parametrize(
    ("rollout", "logprobs"), [({}, "raw"), ({"temperature": 0.7}, "processed"), ({"top_p": 0.9}, "processed")]
)
def test_log_probabilities_are_of_what_was_sampled_from(job, rollout, logprobs) -> None:
    assert engine_options(job(rollout), CPUS).logprobs == logprobs


def test_an_engine_that_shares_its_gpu_sleeps_and_takes_less_of_it(job) -> None:
    apart, shared = engine_options(job(), GPUS), engine_options(job({"placement": "shared"}), GPUS)
    assert (apart.sleeps, apart.gpu_memory) == (False, None)
    assert (shared.sleeps, shared.gpu_memory) == (True, 0.4)


def test_weights_are_taken_as_the_recipe_says(job) -> None:
    assert engine_options(job({"transfer": "broadcast"}), CPUS).takes_weights == "broadcast"


@pytest.mark.parametrize(
    ("precision", "cluster", "nats"),
    [("fp32", CPUS, 1e-3), ("fp32", GPUS, 1e-2), ("bf16", CPUS, 1.0), ("bf16", GPUS, 1.0), ("fp16", GPUS, 0.3)],
)
def test_an_engine_may_differ_from_the_learner_by_no_more_than_its_arithmetic_does(
    job, precision, cluster, nats
) -> None:
    assert most_apart(job(precision=precision), cluster) == pytest.approx(nats)
