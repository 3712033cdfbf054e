"""`optimizer`, `schedule`, `early_stop`: how the weights are moved; a key the kind has no use for is refused."""

from typing import Any, Literal

from pydantic import Field, model_validator

from fettle.recipe.spec import Spec, check_keys, with_defaults

OptimizerKind = Literal["adamw", "adamw_8bit", "adam", "sgd", "rmsprop", "adafactor", "muon"]
_OPTIMIZERS: dict[str, dict[str, float]] = {
    "adamw": {"beta1": 0.9, "beta2": 0.95, "eps": 1e-8},
    "adamw_8bit": {"beta1": 0.9, "beta2": 0.95, "eps": 1e-8},
    "adam": {"beta1": 0.9, "beta2": 0.95, "eps": 1e-8},
    "sgd": {"momentum": 0.9},
    "rmsprop": {"smoothing": 0.99, "eps": 1e-8, "momentum": 0.0},
    "adafactor": {},
    "muon": {"momentum": 0.95, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8},
}
_SCHEDULES: dict[str, dict[str, float]] = {
    "cosine": {"floor": 0.1},
    "linear": {"floor": 0.1},
    "constant": {},
    "wsd": {"floor": 0.1, "decay": 0.1},
}


class OptimizerSpec(Spec):
    """What turns gradients into steps; `optimizer: sgd` is enough to name the kind. Keys without a default of their own
    belong to the kinds they name."""

    kind: OptimizerKind = "adamw"
    """AdamW (Loshchilov & Hutter 2017, arXiv:1711.05101), the same with its two moments in eight bits (Dettmers et al.
    2021, arXiv:2110.02861), Adam (Kingma & Ba 2014, arXiv:1412.6980), SGD with momentum,
    RMSprop, Adafactor (Shazeer & Stern 2018, arXiv:1804.04235; `lr` is relative to the root mean square of each
    weight), Muon (Jordan 2024) for the matrices of the layers with AdamW for all else."""
    beta1: float | None = Field(None, ge=0, lt=1)
    """adamw, adamw_8bit, adam, muon: decay of the gradients' mean; 0.9 by default."""
    beta2: float | None = Field(None, ge=0, lt=1)
    """adamw, adamw_8bit, adam, muon: decay of their variance; 0.95 by default."""
    momentum: float | None = Field(None, ge=0, lt=1)
    """sgd, rmsprop, muon: share of the earlier steps; 0.9 by default, for rmsprop 0, for muon 0.95."""
    smoothing: float | None = Field(None, ge=0, lt=1)
    """rmsprop: decay of the squared gradients' mean; 0.99 by default."""
    eps: float | None = Field(None, gt=0)
    """adamw, adamw_8bit, adam, rmsprop, muon: added to the root of the variance; 1e-8 by default."""
    weight_decay: float = Field(0.0, ge=0)
    """Decay of weights, not of biases and norms: times `lr` off the weights (adamw, adamw_8bit, adafactor, muon), or
    added to the gradients (adam, sgd, rmsprop)."""
    max_grad_norm: float = Field(1.0, ge=0)
    """Gradients are scaled down to this norm; 0 = never."""

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_kind(cls, value: Any) -> Any:
        return with_defaults(value, "adamw", _OPTIMIZERS)

    @model_validator(mode="after")
    def _keys_of_the_kind(self) -> "OptimizerSpec":
        check_keys(self, _OPTIMIZERS)
        return self


class ScheduleSpec(Spec):
    """The learning rate over the stage's steps."""

    kind: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    """Its shape after the warm-up; `wsd` (warm-up, stable, decay: Hu et al. 2024, arXiv:2404.06395) stays at the peak
    and falls in a straight line at the end."""
    warmup: float = Field(0.05, ge=0, lt=1)
    """Share of the steps over which the rate rises from 0."""
    floor: float | None = Field(None, ge=0, le=1)
    """cosine, linear, wsd: the rate the schedule ends at, as a share of `lr`; 0.1 by default."""
    decay: float | None = Field(None, gt=0, le=1)
    """wsd: share of the steps over which the rate falls; 0.1 by default."""

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_kind(cls, value: Any) -> Any:
        return with_defaults(value, "cosine", _SCHEDULES)

    @model_validator(mode="after")
    def _keys_of_the_kind(self) -> "ScheduleSpec":
        check_keys(self, _SCHEDULES)
        if self.decay is not None and self.warmup + self.decay > 1:
            raise ValueError(f"warmup {self.warmup:g} and decay {self.decay:g} are more than all the steps")
        return self


class EarlyStopSpec(Spec):
    """Ends a stage whose held-out loss no longer falls."""

    patience: int = Field(3, ge=1)
    """Measurements without improvement after which the stage ends."""
    every: int = Field(ge=1)
    """Optimizer steps between two measurements of the held-out loss."""
    min_delta: float = Field(0.0, ge=0)
    """By how much, in the loss's unit, it has to fall to have improved."""
    keep: Literal["best", "last"] = "best"
    """Which weights the artifact holds: those of the best measurement (a checkpoint is written at each improvement), or
    those of the last step."""
