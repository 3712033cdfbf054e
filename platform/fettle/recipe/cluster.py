"""`cluster`: how many workers train a stage, and how they share the model."""

from typing import Literal

from pydantic import Field, model_validator

from fettle.recipe.spec import Spec

Precision = Literal["fp32", "bf16", "fp16"]


class ClusterSpec(Spec):
    """The worker group of a stage."""

    workers: int = Field(1, ge=1)
    """Training processes; each has its own CPUs (and GPUs)."""
    min_workers: int | None = Field(None, ge=1)
    """Begin, and go on, with as few as these where there is no room for all `workers`: after a machine is lost, or
    until one is free. A group that grows or shrinks goes on from its last checkpoint. By default all, or none."""
    zero: Literal[0, 1, 2, 3] = 0
    """DeepSpeed ZeRO stage. One worker with 0 runs without a DeepSpeed engine."""
    precision: Precision | None = None
    """Of the forward pass: `bf16` and `fp16` autocast over float32 weights, `fp16` with loss scaling, for GPUs that
    have no bf16. By default bf16 where the hardware multiplies it, else fp32; `auto` takes what is measured to be the
    fastest."""
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
    def _fewer_are_fewer(self) -> "ClusterSpec":
        if self.min_workers is not None and self.min_workers > self.workers:
            raise ValueError(f"min_workers {self.min_workers} is more than workers {self.workers}")
        return self

    @property
    def fewest(self) -> int:
        """Workers that a group is not begun without."""
        return self.min_workers or self.workers

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
