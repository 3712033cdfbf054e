"""What an rl stage holds beside a plain policy: critic, reference, the weights on their way, engines and reward models.

On a CPU all of it lies in one machine's memory; on GPUs engines and reward models have their own, or take turns.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from fettle.needs.memory import HOST_LEVEL, LAST, Moment, Setup
from fettle.needs.shape import Shape, trained_weights

_ENGINE_LEVEL = 1400 << 20
"""What a process with vLLM holds before it loads anything, on a CPU; CUDA's context and graphs on a GPU are as much."""
_READ_AT_ONCE = 4096
"""Tokens of a batch that vLLM works on at once (engine/env.py)."""
_KV_MOST, _KV_LEAST = 4 << 30, 64 << 20  # as engine.env.kv_bytes has it on CPUs
_BLOCK = 128
VLLM_SHARE = 0.92
"""Of a GPU's memory, which vLLM takes by default."""


@dataclass(frozen=True)
class Beside:
    """Processes beside the workers: what they are, how many, bytes by part of each, and GPUs that each has to itself
    (0 of one that shares the workers'). share: of a GPU's memory that an engine takes."""

    name: str
    count: int
    parts: dict[str, int]
    gpus: int = 0
    share: float | None = None

    @property
    def total(self) -> int:
        """Bytes of one."""
        return sum(self.parts.values())


def with_critic(found: list[Moment], critic: list[Moment]) -> list[Moment]:
    """A stage's moments with those of its critic, a second model that learns in the same step. Activations of both are
    held until the way back; the overhead is there once."""
    by_name = {moment.name: moment for moment in critic}
    both = []
    for moment in found:
        other = by_name.get(moment.name)
        more = {f"critic: {key}": size for key, size in other.parts.items() if key != "overhead"} if other else {}
        both.append(replace(moment, parts=moment.parts | more))
    return both


def with_reference(found: list[Moment], shape: Shape, setup: Setup, *, goes_on: bool) -> list[Moment]:
    """With the reference policy, `rl/reference.py`: of full weights a second model in float32, shared out by ZeRO 3; of
    an adapter that goes on a copy of it; of a fresh one nothing, since it is the model without it."""
    if setup.adapter.is_beside:
        size = 4 * trained_weights(shape, setup.adapter) if goes_on else 0
    else:
        size = 4 * shape.weights // (setup.cluster.workers if setup.cluster.zero == 3 else 1)
    if not size:
        return found
    return [replace(moment, parts=moment.parts | {"reference": size}) for moment in found if moment.name != "loading"]


def sync_moment(found: list[Moment], shape: Shape, setup: Setup) -> Moment:
    """The weights on their way to the engines: rank 0's copy of them in the host's memory, in the type of the
    arithmetic; of an adapter the adapter alone, in float32 (rl/sync.py)."""
    last = next(moment for moment in found if moment.name in LAST)
    size = 2 if setup.precision != "fp32" else 4
    copy = 4 * trained_weights(shape, setup.adapter) if setup.adapter.is_beside else size * shape.weights
    still = {
        key: value
        for key, value in last.parts.items()
        if key.removeprefix("critic: ") not in ("gradients", "flattened", "buckets", "activations", "checkpoint")
    }
    if setup.on_gpu:
        return Moment("weights to the engines", still, last.host | {"weights to the engines": copy})
    return Moment("weights to the engines", still | {"weights to the engines": copy})


def engine(shape: Shape, config: dict[str, int], setup: Setup, sequences: int, length: int) -> dict[str, int]:
    """Bytes of an engine: weights in the precision of the learner, keys and values of `sequences` texts of `length`
    tokens (engine/env.py), what it works on. config: layers, kv_heads, head_size."""
    size = 2 if setup.precision != "fp32" else 4
    token = 2 * config["layers"] * config["kv_heads"] * config["head_size"] * size
    sequence = token * (-(-length // _BLOCK) + 1) * _BLOCK
    kv = max(sequence, sequence * sequences)
    if not setup.on_gpu:
        kv = max(sequence, _KV_LEAST, min(kv, _KV_MOST))
    return {
        "weights": size * shape.weights,
        "keys and values": kv,
        "activations": size * _READ_AT_ONCE * (8 * shape.hidden) + 4 * sequences * shape.vocabulary,
        "process": _ENGINE_LEVEL,
    }


def reward_model(shape: Shape, setup: Setup) -> dict[str, int]:
    """Bytes of a reward model's own process: its weights, and what it scores at once."""
    size = 2 if setup.on_gpu else 4
    return {
        "weights": size * shape.weights,
        "activations": 16 * size * _READ_AT_ONCE * shape.hidden,
        "process": HOST_LEVEL if not setup.on_gpu else 1 << 30,
    }


def second_model(found: list[Moment], name: str, shape: Shape, setup: Setup) -> list[Moment]:
    """With another frozen model that answers beside the one that learns, such as a teacher: its weights, and the
    log-probabilities of both over the whole vocabulary where they are compared."""
    low = 2 if setup.precision == "bf16" else 4
    logits = 3 * 4 * setup.micro.total * shape.vocabulary
    both = []
    for moment in found:
        parts = moment.parts | ({name: low * shape.weights} if moment.name != "loading" else {})
        if moment.name.startswith("forward"):
            parts |= {f"{name}'s logits": logits}
        both.append(replace(moment, parts=parts))
    return both


def merging(shape: Shape) -> list[Moment]:
    """A merge or a rounding: the model in float32 on one worker, and what is written of it."""
    parts = {"weights": 4 * shape.weights, "artifact": shape.stored * shape.weights, "overhead": 200 << 20}
    return [Moment("merging", parts)]
