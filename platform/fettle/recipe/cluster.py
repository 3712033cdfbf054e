"""`cluster`: how many workers train a stage, and how they share the model."""

from typing import Literal

from pydantic import Field, model_validator

from fettle.recipe.spec import Spec

Precision = Literal["fp32", "bf16", "fp16"]


class ClusterSpec(Spec):
    """The worker group of a stage."""

    workers: int = Field(1, ge=1)
    """Training processes; each has its own CPUs (and GPUs)."""
    zero: Literal[0, 1, 2, 3] = 0
    """DeepSpeed ZeRO stage. One worker with 0 runs without a DeepSpeed engine."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Of the forward pass: `bf16` and `fp16` autocast over float32 weights, `fp16` with loss scaling, for GPUs that
    have no bf16; `auto` is bf16 where the hardware has it."""
    cpus_per_worker: int = Field(1, ge=1)
    """CPU cores, and torch threads, of each worker."""
    gpus_per_worker: Literal[0, 1] = 0
    """GPUs of each worker."""
    offload: bool = False
    """Keep the optimizer's state in host memory (ZeRO 2 or 3 on GPUs)."""

    @model_validator(mode="after")
    def _offload_has_an_effect(self) -> "ClusterSpec":
        if self.offload and (self.zero < 2 or self.gpus_per_worker == 0):
            raise ValueError("offload works with zero: 2 or 3 and gpus_per_worker: 1; set offload: false")
        return self

    @model_validator(mode="after")
    def _overflows_are_seen_by_all(self) -> "ClusterSpec":
        if self.precision != "fp16":
            return self
        if self.zero == 3 or (self.workers > 1 and self.zero == 0):
            raise ValueError(
                "precision fp16 leaves out steps whose gradients overflow, which DeepSpeed sees with zero: 1 and 2 (or"
                " without it, with workers: 1 and zero: 0); set zero: 2, or precision: bf16"
            )
        if self.offload:
            raise ValueError("precision fp16 does not work with offload; set offload: false, or precision: bf16")
        return self
