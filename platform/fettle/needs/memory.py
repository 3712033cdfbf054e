"""How much memory each worker of a stage holds, moment after moment, by parts; in bytes.

Every number has its reason beside it. Letters: W weights, T those that are trained, R workers.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from fettle.needs.shape import Shape, trained_weights
from fettle.needs.trace import Micro, Passes, passes, passes_by_rule
from fettle.recipe.adapter import AdapterSpec
from fettle.recipe.cluster import ClusterSpec, Precision
from fettle.recipe.optimizer import OptimizerSpec

ADAMW = OptimizerSpec()
_F32 = 4
_BUCKET = 500_000_000
"""Weights in one of DeepSpeed's buckets: `reduce_bucket_size` and `allgather_bucket_size` by default."""
_LIVE = 1_000_000_000
"""Weights that ZeRO 3 keeps gathered at most: `stage3_max_live_parameters` by default."""
LAST = ("optimizer step", "gradients between the workers")
"""The last moment of a step: with DeepSpeed's engine the second."""
_NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Bytes of a weight in NF4 with double quantisation (Dettmers et al. 2023, arXiv:2305.14314, section 3): half a byte,
an 8-bit scale for 64 of them, and a float32 scale for 256 of those."""
_INT8 = 1 + 1 / 1024
"""LLM.int8(): a byte, and a float32 scale for each row."""
_FETCHED = 50_000_000
"""Weights that ZeRO 3 gathers ahead of their use: `stage3_prefetch_bucket_size` by default."""
_CPU_OVERHEAD = 94 << 20
"""What a worker on a CPU holds more than its tensors: kernels compiled for their shapes, tokenizer, data (measured:
docs/plan.md)."""
_CPU_BEGUN = 16 << 20
"""The same before anything is computed."""
_ACTIVATION_SLACK = 0.036
"""Share of the activations that the allocator, jemalloc, holds in pieces that nothing fits into (measured:
docs/plan.md)."""
_LEFT_OF_GRADIENTS = 0.57
"""Of what the gradients of a step have left in such pieces, where they lie weight by weight: the rest is used by the
checkpoint's copy and the next step's activations (measured). Under ZeRO they are one long vector, which is given
back."""
_GPU_OVERHEAD = 1 << 30
"""CUDA's context and libraries, 0.5 to 0.9 GiB, and NCCL's buffers; a guess, no GPU was measured."""
_GPU_SLACK = 0.05
"""Share of the tensors that torch's caching allocator holds in pieces that nothing fits into; a guess."""
BOUND = 4
"""How much more than by the rule a bound allows for: layers with gates, eager attention, adapters."""
HOST_LEVEL = 800 << 20
"""What a worker's process holds before it loads anything: Python with torch, transformers, DeepSpeed and Ray."""


@dataclass(frozen=True)
class Setup:
    """A stage as a worker trains it. heldout: the micro-batch that held-out records are measured by, if any are.

    later: whether a checkpoint is written before the last step, so that the next step runs beside its copy. rough: no
    model is run through, activations are so many times those of `passes_by_rule`: 0 is less than it can be, BOUND is
    more.
    """

    adapter: AdapterSpec
    cluster: ClusterSpec
    precision: Precision
    micro: Micro
    heldout: Micro | None
    optimizer: OptimizerSpec = ADAMW
    accumulate: int = 1
    later: bool = True
    rough: int | None = None

    @property
    def on_gpu(self) -> bool:
        """Whether it has GPUs."""
        return self.cluster.gpus_per_worker > 0


@dataclass(frozen=True)
class Moment:
    """One moment of a stage: what is held then, in bytes. host: beside a GPU's memory, in the machine's."""

    name: str
    parts: dict[str, int] = field(default_factory=dict)
    host: dict[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Bytes on the device."""
        return sum(self.parts.values())

    @property
    def host_total(self) -> int:
        """Bytes in the host's memory: all of them, where there is no GPU."""
        return sum(self.host.values())


def moments(shape: Shape, setup: Setup) -> list[Moment]:
    """The moments of a stage at which a worker may hold the most, in order."""
    return [_loading(shape, setup), *_held_out(shape, setup), *_steps(shape, setup), _publishing(shape, setup)]


def peak(found: list[Moment]) -> Moment:
    """The one with the most on the device."""
    return max(found, key=lambda moment: moment.total)


def weight_bytes(shape: Shape, setup: Setup) -> int:
    """Of the model's own weights, whole: float32 where they are trained; beside an adapter in the type of the
    arithmetic (train/stage.py), or of `bits` the matrices in the layers."""
    if not setup.adapter.is_beside:
        return _F32 * shape.weights
    frozen = 2 if setup.precision == "bf16" and setup.cluster.zero < 3 else _F32
    rounded = shape.linear if setup.adapter.bits is not None else 0
    each = _NF4 if setup.adapter.bits == 4 else _INT8
    return frozen * (shape.weights - rounded) + int(each * rounded)


def optimizer_bytes(spec: OptimizerSpec) -> float:
    """Bytes of its state for each weight that is trained."""
    if spec.kind in ("adamw", "adam"):
        return 2 * _F32  # two moments
    if spec.kind == "adamw_8bit":
        return 2 + 2 * _F32 / 256  # two bytes, and a float32 scale for each block of 256
    if spec.kind == "rmsprop":
        return _F32 * (2 if spec.momentum else 1)
    if spec.kind == "sgd":
        return _F32 if spec.momentum else 0
    if spec.kind == "muon":
        return _F32  # momentum; AdamW's second moment of embeddings and head is left out
    return 0.05  # adafactor: a row and a column of each matrix


def _held(shape: Shape, setup: Setup, *, states: bool) -> dict[str, int]:
    """What a worker holds all the time: weights, its own share of what ZeRO shares out. states: whether the optimizer
    has made a step."""
    trained = trained_weights(shape, setup.adapter)
    zero, workers = setup.cluster.zero, setup.cluster.workers
    weights = weight_bytes(shape, setup) + (_F32 * trained if setup.adapter.is_beside else 0)
    parts = {"weights": weights}
    share = trained / workers if zero else trained
    if zero == 3:
        parts["weights"] = weights // workers
        parts["gathered"] = min(weights, _F32 * _LIVE) + min(weights, _F32 * _FETCHED)
    if zero:
        # The optimizer moves copies of this worker's share, whatever type the weights have.
        parts["master copy"] = int(_F32 * share)
    if states:
        parts["optimizer"] = int(optimizer_bytes(setup.optimizer) * share)
    if setup.cluster.offload:
        moved = [name for name in ("master copy", "optimizer") if name in parts]
        for name in moved:
            del parts[name]
    return parts


def _offloaded(shape: Shape, setup: Setup) -> dict[str, int]:
    """What offload keeps in the host's memory: the copies, the moments, and the gradients they are moved by."""
    if not setup.cluster.offload:
        return {}
    share = trained_weights(shape, setup.adapter) / setup.cluster.workers
    return {"master copy": int(_F32 * share), "optimizer": int(8 * share), "gradients": int(_F32 * share)}


def _copied(shape: Shape, setup: Setup) -> int:
    """A checkpoint while it is written: weights and the optimizer's state, which the workers share out
    (train/state.py), in the host's memory."""
    trained = trained_weights(shape, setup.adapter)
    moved = shape.weights if setup.adapter.kind == "lisa" else trained  # its optimizer is made of all weights
    return int((_F32 * moved + optimizer_bytes(setup.optimizer) * trained) / setup.cluster.workers)


def _overhead(setup: Setup, parts: dict[str, int]) -> int:
    if setup.on_gpu:
        return _GPU_OVERHEAD + int(_GPU_SLACK * sum(parts.values()))
    pieces = _ACTIVATION_SLACK * sum(parts.get(name, 0) for name in ("activations", "held-out records"))
    return _CPU_OVERHEAD + int(pieces)


def _moment(setup: Setup, name: str, parts: dict[str, int], host: dict[str, int]) -> Moment:
    """With what no part tells; on a CPU the host's is the worker's own."""
    if not setup.on_gpu:
        parts, host = parts | host, {}
    parts = {key: size for key, size in parts.items() if size}
    parts["overhead"] = _overhead(setup, parts)
    return Moment(name, parts, {"process": HOST_LEVEL} | host if setup.on_gpu else {})


def _loading(shape: Shape, setup: Setup) -> Moment:
    """The file is mapped into memory while its weights are taken over in another type."""
    file = shape.stored * shape.weights
    held = _held(shape, setup, states=False)
    if setup.cluster.zero == 3:
        held["gathered"] = 0
    found = _moment(setup, "loading", {"weights": held["weights"]}, {"file": file})
    return found if setup.on_gpu else replace(found, parts=found.parts | {"overhead": _CPU_BEGUN})


def _held_out(shape: Shape, setup: Setup) -> list[Moment]:
    if setup.heldout is None:
        return []
    forward = _passes(shape, setup, setup.heldout).forward
    parts = _held(shape, setup, states=True) | {"held-out records": forward}
    return [_moment(setup, "held-out records", parts, _offloaded(shape, setup))]


def _steps(shape: Shape, setup: Setup) -> list[Moment]:
    found = _passes(shape, setup, setup.micro)
    trained = trained_weights(shape, setup.adapter)
    zero = setup.cluster.zero
    held = _held(shape, setup, states=True)
    host = _offloaded(shape, setup) | ({"checkpoint": _copied(shape, setup)} if setup.later else {})
    gradients = _F32 * trained
    head = _F32 * (shape.head or shape.embeddings) if not setup.adapter.is_beside else 0
    top, bottom = {"activations": found.top}, {"activations": found.bottom}
    last_parts = _reduced(setup, found, trained)
    if zero == 0:
        top["gradients"] = gradients if setup.accumulate > 1 else head
        bottom["gradients"] = gradients
        if not setup.on_gpu:
            left = {"left of gradients": int(_LEFT_OF_GRADIENTS * gradients)}
            top, bottom, last_parts = top | left, bottom | left, last_parts | left
    else:
        top |= {"buckets": _bucket(setup, head // _F32)}
        bottom |= {"buckets": _bucket(setup, trained)}
    last = LAST[_has_engine(setup)]
    before = held
    if setup.adapter.kind == "lisa" and setup.adapter.every == 1:  # the layers' moments go with them, at each step
        before = held | {"optimizer": int(optimizer_bytes(setup.optimizer) * shape.outside)}
    return [
        _moment(setup, "forward and back, at the head", before | top, host),
        _moment(setup, "forward and back, at the embeddings", before | bottom, host),
        _moment(setup, last, held | last_parts, host),
    ]


def _has_engine(setup: Setup) -> bool:
    """Whether it trains through DeepSpeed's engine, as `train.zero.needs_engine` says."""
    return setup.cluster.workers > 1 or setup.cluster.zero > 0


def _reduced(setup: Setup, found: Passes, trained: int) -> dict[str, int]:
    """After the way back, when gradients are whole: DeepSpeed has them in a bucket, flattens them once more to exchange
    them, and keeps this worker's share. On a CPU what the activations have left is not given back by then, unless
    gradients lie in it."""
    gradients, zero = _F32 * trained, setup.cluster.zero
    if not _has_engine(setup):
        return {"gradients": gradients}
    flat = min(gradients, _F32 * _BUCKET)
    parts = {"flattened": flat}
    if zero == 0:
        parts["gradients"] = gradients
    else:
        parts |= {"buckets": _bucket(setup, trained), "gradients": gradients // setup.cluster.workers}
    if not setup.on_gpu:
        parts["activations"] = found.top if zero else max(0, found.top - gradients)
    return parts


def _bucket(setup: Setup, weights: int) -> int:
    """Of the gradients of so many weights; on a CPU only what is written of a buffer is held."""
    return _F32 * (_BUCKET if setup.on_gpu else min(_BUCKET, weights))


def _publishing(shape: Shape, setup: Setup) -> Moment:
    """Rank 0's copy of what is written, in the type that the base lies in."""
    held = _held(shape, setup, states=True)
    written = (
        shape.stored * shape.weights if not setup.adapter.is_beside else _F32 * trained_weights(shape, setup.adapter)
    )
    return _moment(setup, "artifact", held, {"artifact": written} | _offloaded(shape, setup))


def _passes(shape: Shape, setup: Setup, micro: Micro) -> Passes:
    if setup.rough is not None:
        return passes_by_rule(shape.hidden, shape.layers, shape.vocabulary, micro, times=setup.rough)
    try:
        return passes(shape.config, setup.adapter, micro)
    except NotImplementedError:
        return passes_by_rule(shape.hidden, shape.layers, shape.vocabulary, micro)
