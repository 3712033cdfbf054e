"""What a step of training and an iteration of reinforcement learning cost on GPUs: formulas, with where each is from.

Everything here is arithmetic: no figure of a GPU was measured by us. Bytes, seconds, FLOP; GB = 10⁹ bytes. "As fettle
is" means float32 weights under a bf16 autocast (train/trainer.py), `overlap_comm: False` (train/zero.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Gpus:
    """A kind of GPU and how it is wired. flops: bf16, dense, a second. nvlink, nic: bytes a second, one way, of each
    GPU. mfu: share of `flops` that a model's own arithmetic reaches; bus: share of the wires that a large collective
    reaches; stream: share of `hbm_rate` that decoding reaches. intra_s, inter_s: of a hop within a node and between
    nodes. storage, pcie: bytes a second of all shared storage, and from one GPU to its host."""

    name: str
    flops: float
    memory: float
    hbm_rate: float
    nvlink: float
    nic: float
    a_node: int = 8
    mfu: float = 0.40
    bus: float = 0.80
    stream: float = 0.70
    intra_s: float = 3.4e-6
    inter_s: float = 9.6e-6
    base_s: float = 8.4e-6
    storage: float = 100e9
    pcie: float = 50e9
    reserved: float = 6e9


# NVIDIA's data sheets: H100 SXM (989 TFLOPS bf16 dense, 80 GB, 3.35 TB/s, NVLink 900 GB/s both ways), H200 (141 GB,
# 4.8 TB/s); DGX H100 has a 400 Gb/s adapter a GPU. mfu: Llama 3 (arXiv:2407.21783, table 4) has 38 to 43 %. Hops: what
# NCCL's own tuning model takes for its ring in the simple protocol (NVIDIA/nccl, src/graph/tuning.cc). bus, stream,
# storage, reserved: our assumptions.
H100 = Gpus("H100", flops=989e12, memory=80e9, hbm_rate=3.35e12, nvlink=450e9, nic=50e9)
H200 = replace(H100, name="H200", memory=141e9, hbm_rate=4.8e12)


@dataclass(frozen=True)
class Model:
    """weights: numbers, all of them; active: those that a token meets. kv_heads · head_dim numbers of keys a layer."""

    name: str
    weights: float
    active: float
    layers: int
    hidden: int
    kv_heads: int
    head_dim: int
    vocab: int

    @property
    def kv_bytes(self) -> int:
        """Of a token's keys and values, in bf16."""
        return 2 * 2 * self.layers * self.kv_heads * self.head_dim


# From the models' own config.json and cards.
QWEN_7B = Model("7B (Qwen2.5-7B)", 7.62e9, 7.62e9, 28, 3584, 4, 128, 152_064)
LLAMA_70B = Model("70B (Llama-3.1-70B)", 70.6e9, 70.6e9, 80, 8192, 8, 128, 128_256)
MAVERICK = Model("400B MoE (Llama 4 Maverick)", 400e9, 17e9, 48, 5120, 8, 128, 202_048)
MODELS = (QWEN_7B, LLAMA_70B, MAVERICK)


@dataclass(frozen=True)
class How:
    """How a model is trained. lora: share of `weights` that is learned, None for all of them. bits: of frozen weights
    at rest; 4 is QLoRA. overlap: share of a collective that arithmetic hides; as fettle is, none. width: bytes of a
    number that travels; as fettle is, 4."""

    zero: int
    lora: float | None = None
    bits: int = 16
    overlap: float = 0.0
    width: int = 4
    checkpointing: bool = True


# --- memory -----------------------------------------------------------------------------------------------------------


def state_bytes(weights: float, zero: int, gpus: int, *, weight: int = 2, gradient: int = 2, rest: int = 12) -> float:
    """Weights, gradients and optimizer a GPU (Rajbhandari et al. 2020, arXiv:1910.02054, figure 1): 16 bytes a weight
    in all, of which stage 1 shares out `rest` (K = 12: a float32 copy and Adam's two moments), 2 the gradients too, 3
    all."""
    shared = [0, rest, rest + gradient, rest + gradient + weight][zero]
    return weights * (weight + gradient + rest - shared + shared / gpus)


def memory(model: Model, how: How, gpus: int, row_tokens: int, rows: int = 1) -> float:
    """Bytes of a GPU in training, as fettle is: float32 weights and gradients, two moments, and the copy of its part
    that DeepSpeed 0.19's ZeRO 1 and 2 keep of it (stage_1_and_2.py: single_partition_of_fp32_groups); frozen weights
    in bf16, with ZeRO 3 in float32. Activations: with checkpointing the layers' inputs and one layer's inside (34 ·
    hidden bytes a token, Korthikanti et al. 2022, arXiv:2205.05198, eq. 2 without the scores, which a fused attention
    never has), and three float32 copies of a chunk of logits."""
    tokens = row_tokens * rows
    learned = model.weights * (1.0 if how.lora is None else how.lora)
    copy = 4 if how.zero in (1, 2) else 0
    state = state_bytes(learned, how.zero, gpus, weight=4, gradient=4, rest=8 + copy)
    frozen = 0.0
    if how.lora is not None:
        frozen = model.weights * how.bits / 8
        if how.zero == 3:
            frozen = model.weights * 4 / gpus
    inside = 34 * model.hidden * tokens * (1 if how.checkpointing else model.layers)
    kept = 2 * model.hidden * model.layers * tokens if how.checkpointing else 0
    gathered = 2 * 4 * model.weights / model.layers if how.zero == 3 else 0  # a layer at work and the one to come
    return state + frozen + inside + kept + gathered + 3 * 4 * min(tokens, 2048) * model.vocab


def fits(gpu: Gpus, model: Model, how: How, gpus: int, row_tokens: int) -> bool:
    """Whether one row at a time fits."""
    return memory(model, how, gpus, row_tokens) <= gpu.memory - gpu.reserved


# --- arithmetic -------------------------------------------------------------------------------------------------------


def flops_a_token(model: Model, length: int, *, lora: bool = False, forward_only: bool = False) -> float:
    """2 forward, 2 for the activations' gradients and 2 for the weights' of each active weight (Kaplan et al. 2020,
    arXiv:2001.08361, 2.1: 6N); frozen weights have none of the last, so LoRA has 4N. Attention over `length` tokens
    adds half of 12 · layers · hidden · length, being causal (Chowdhery et al. 2022, arXiv:2204.02311, appendix B)."""
    share = 1 / 3 if forward_only else 1.0
    dense = 6 * model.active * share
    if lora and not forward_only:
        dense = 4 * model.active
    return dense + 6 * model.layers * model.hidden * length * share


# --- collectives ------------------------------------------------------------------------------------------------------


def ring_seconds(gpu: Gpus, gpus: int, size: float, passes: int = 1) -> float:
    """Of a collective over `gpus` in a ring: each sends (n - 1) / n of `size` bytes in n - 1 hops, once to gather or to
    reduce and scatter, in two `passes` to all-reduce (Patarasuk & Yuan 2009, 10.1016/j.jpdc.2008.09.002). Between nodes
    a ring for each adapter shares the load, so that the slower of NVLink and a node's adapters together counts."""
    if gpus == 1:
        return 0.0
    nodes = -(-gpus // gpu.a_node)
    wire = gpu.nvlink if nodes == 1 else min(gpu.nvlink, gpu.nic * gpu.a_node)
    inter = nodes if nodes > 1 else 0
    hops = (gpus - 1 - max(0, inter - 1)) * gpu.intra_s + max(0, inter - 1) * gpu.inter_s
    return passes * ((gpus - 1) / gpus * size / (wire * gpu.bus) + hops) + gpu.base_s


def zero_seconds(gpu: Gpus, model: Model, how: How, gpus: int, micro_batches: int) -> float:
    """Of a step's collectives (arXiv:1910.02054, section 7): stages 0 to 2 move 2 Ψ a step (stage 2 reduces after every
    micro-batch), stage 3 moves 3 Ψ every micro-batch, layer by layer."""
    learned = model.weights * (1.0 if how.lora is None else how.lora) * how.width
    if how.zero == 0:
        return ring_seconds(gpu, gpus, learned, passes=2)
    reduced, gathered = ring_seconds(gpu, gpus, learned), ring_seconds(gpu, gpus, learned)
    if how.zero == 1:
        return reduced + gathered
    if how.zero == 2:
        return micro_batches * reduced + gathered
    layer = ring_seconds(gpu, gpus, model.weights * how.width / model.layers)
    layer_reduced = ring_seconds(gpu, gpus, learned / model.layers)
    return micro_batches * model.layers * (2 * layer + layer_reduced)


# --- a step -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """Seconds of an optimizer step, by what they go into. mfu: of the whole step."""

    rows: int
    micro_batches: int
    compute: float
    collectives: float
    optimizer: float
    mfu: float

    @property
    def seconds(self) -> float:
        return self.compute + self.collectives + self.optimizer


def step(gpu: Gpus, model: Model, how: How, gpus: int, batch_tokens: int, row_tokens: int) -> Step | None:
    """Of a batch of `batch_tokens` in rows of `row_tokens`; None where one row does not fit, or there are fewer rows
    than GPUs. Each takes as many rows at a time, a power of two, as fit."""
    rows = batch_tokens // row_tokens
    if rows < gpus or not fits(gpu, model, how, gpus, row_tokens):
        return None
    a_gpu = rows // gpus
    at_once = 1
    while 2 * at_once <= a_gpu and memory(model, how, gpus, row_tokens, 2 * at_once) <= gpu.memory - gpu.reserved:
        at_once *= 2
    micro_batches = -(-a_gpu // at_once)
    own = flops_a_token(model, row_tokens, lora=how.lora is not None) * batch_tokens / gpus
    again = flops_a_token(model, row_tokens, forward_only=True) * batch_tokens / gpus if how.checkpointing else 0.0
    compute = (own + again) / (gpu.flops * gpu.mfu)
    collectives = zero_seconds(gpu, model, how, gpus, micro_batches)
    hidden = min(how.overlap * collectives, compute)
    learned = model.weights * (1.0 if how.lora is None else how.lora) / (gpus if how.zero else 1)
    optimizer = learned * 28 / (gpu.hbm_rate * gpu.stream)  # Adam reads four float32 numbers a weight and writes three
    total = compute + collectives - hidden + optimizer
    return Step(at_once, micro_batches, compute, collectives - hidden, optimizer, own / gpu.flops / total)


# --- decoding ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Decoding:
    """Seconds of one engine's step: `fixed`, and for each answer under way `each`, and `context` a token before it."""

    fixed: float
    each: float
    context: float = 0.0

    def seconds(self, lengths: list[int], prompt: int = 0) -> float:
        """Until all of a batch of answers are there, that began together: in step t those longer than t are under
        way."""
        total, done = 0.0, 0
        for rank, length in enumerate(sorted(lengths)):
            active, steps = len(lengths) - rank, length - done
            middle = prompt + done + steps / 2
            total += steps * (self.fixed + active * (self.each + self.context * middle))
            done = length
        return total


def decoding(gpu: Gpus, model: Model, width: int) -> Decoding:
    """An engine on `width` GPUs: each step reads its weights once (a MoE's all, as a batch meets every expert) and each
    answer's keys and values; each answer has 2 · active FLOP, at the share `mfu` of the peak. Two reductions a layer
    between the GPUs (hops as in NCCL's low-latency protocol), and 3 ms a step of vLLM's own (an assumption)."""
    rate = width * gpu.hbm_rate * gpu.stream
    talk = 2 * model.layers * (gpu.base_s + 2 * (width - 1) * 0.5e-6) if width > 1 else 0.0
    fixed = 2 * model.weights / rate + talk + 3e-3
    each = 2 * model.active / (width * gpu.flops * gpu.mfu)
    return Decoding(fixed, each, model.kv_bytes / rate)


def engine_width(gpu: Gpus, model: Model) -> int | None:
    """The fewest GPUs, a power of two, that hold bf16 weights and as much again, or 40 % of them, for keys and values;
    None where a node does not: fettle's engines are on one."""
    width = 1
    while width <= gpu.a_node:
        if 2 * model.weights <= 0.6 * width * gpu.memory:
            return width
        width *= 2
    return gpu.a_node if 2 * model.weights <= 0.85 * gpu.a_node * gpu.memory else None
