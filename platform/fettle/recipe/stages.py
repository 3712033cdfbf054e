"""`stages`: the keys every stage has."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from fettle.recipe.adapter import AdapterSpec
from fettle.recipe.cluster import ClusterSpec
from fettle.recipe.data import DataSpec, HeldoutSpec, ReplaySpec, as_source
from fettle.recipe.from_nothing import Base
from fettle.recipe.optimizer import EarlyStopSpec, OptimizerSpec, ScheduleSpec
from fettle.recipe.spec import Spec, as_kind


class BatchSpec(Spec):
    """What one optimizer step learns from, over all workers. Packing and worker count never change it."""

    tokens: int | None = Field(None, ge=1)
    """Records are taken until they hold this many tokens (prompt tokens count too)."""
    sequences: int | None = Field(None, ge=1)
    """So many records, before packing."""
    accumulate: int = Field(1, ge=1)
    """Micro-batches each worker splits its share into (less memory, the same result); `auto`: the fastest that fits."""

    @model_validator(mode="after")
    def _one_of_two(self) -> "BatchSpec":
        if (self.tokens is None) == (self.sequences is None):
            raise ValueError("give either tokens: N or sequences: N")
        return self


class CheckpointSpec(Spec):
    """Checkpoints inside a stage, from which an interrupted run goes on."""

    every: int = Field(50, ge=1)
    """Optimizer steps between two checkpoints."""
    keep: int = Field(2, ge=1)
    """The newest so many complete ones stay."""


def _as_sources(value: object) -> object:
    """`data: FILE` and `data: [FILE, {path, weight}]` are both lists of sources."""
    items = value if isinstance(value, (list, tuple)) else [value]
    return tuple(as_source(item) for item in items)


class StageBase(Spec):
    """The keys every stage has."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """Unique in the recipe; names the artifact."""
    kind: str
    """What the stage does."""
    from_: str | None = Field(None, alias="from")
    """An earlier stage, an artifact's folder, or what `publish.registry` has (`support@production`, `support:7`); by
    default the nearest earlier stage that yields a language model. From an adapter, the same adapter goes on: kind,
    sizes and targets have to be those it was made with, how it is trained (bits, lr_ratio) may change. With
    `merge_first` it becomes part of the weights, and any adapter may follow."""
    cluster: ClusterSpec | None = None
    """This stage's own worker group."""


class LearningStage(StageBase):
    """The keys of every stage that changes weights, whatever it learns from."""

    base: Base | None = None
    """Begin from this model instead of an earlier stage's; or from nothing."""
    heldout: HeldoutSpec | None = None
    """On what the loss is measured before and after; by default 2 % of the records, at most 200."""
    lr: float = Field(2e-4, gt=0)
    """Peak learning rate."""
    optimizer: Annotated[OptimizerSpec, BeforeValidator(as_kind)] = OptimizerSpec()
    """What turns gradients into steps; `optimizer: sgd` is enough to name the kind."""
    schedule: Annotated[ScheduleSpec, BeforeValidator(as_kind)] = ScheduleSpec()
    """How the learning rate goes; `schedule: linear` is enough to name the kind."""
    gradient_checkpointing: bool | None = None
    """Compute each layer's inside again on the way back instead of keeping it: less memory, the same losses, about a
    third more time. By default on GPUs only; `auto`: only where nothing else fits, or is slower."""
    batch: BatchSpec = BatchSpec(tokens=8192)
    """What one optimizer step learns from."""
    max_length: int | None = Field(None, ge=8)
    """Tokens of the longest record; by default the model's positions, at most 2048."""
    packing: bool | None = None
    """Several records in one row, none seeing another; false pads instead. By default true where the model and the
    adapter can; `auto`: where that is measured to be faster."""
    attention: Literal["sdpa", "eager", "flash"] | None = None
    """How attention is computed: by torch's kernels, by plain products, or by FlashAttention 2 (on GPUs, where the
    package flash-attn is). By default what the model needs, mostly torch's; `auto`: the fastest of them."""
    checkpoint: CheckpointSpec = CheckpointSpec()
    """How often to save, and how much to keep."""
    merge_first: bool = False
    """Merge the adapter this stage begins from into its base, and train on from full weights."""
    adapter: Annotated[AdapterSpec | None, BeforeValidator(as_kind)] = None
    """This stage's own adapter."""

    @property
    def num_checkpoints(self) -> int:
        """Checkpoints that may lie on the disk: the newest."""
        return self.checkpoint.keep

    @model_validator(mode="after")
    def _one_origin(self) -> "LearningStage":
        if self.from_ is not None and self.base is not None:
            raise ValueError("give either from (go on from a stage) or base (begin from a model)")
        return self


class TrainingStage(LearningStage):
    """The keys of every stage that learns from records."""

    data: Annotated[tuple[DataSpec, ...], BeforeValidator(_as_sources)] = Field(min_length=1)
    """A file, or a list of files with weights; epochs count the first."""
    replay: ReplaySpec | None = None
    """Earlier or general data mixed in."""
    early_stop: EarlyStopSpec | None = None
    """End the stage when its held-out loss no longer falls; by default it takes all its steps."""
    epochs: float | None = Field(None, gt=0)
    """Passes over the first source; 1 unless `max_steps` is given."""
    max_steps: int | None = Field(None, ge=1)
    """Optimizer steps; the data is repeated or cut to fit."""
    streaming: bool = False
    """Encode records while training, instead of all of them before: for sets too large for the disk. Needs `max_steps`,
    and files of lines (.jsonl, or .txt with `split: lines`)."""
    on_long: Literal["cut", "skip", "error"] = "cut"
    """What to do with a longer record (raw text is split, never cut)."""

    @property
    def num_checkpoints(self) -> int:
        """Checkpoints that may lie on the disk: the newest, and the best where that one is kept."""
        return self.checkpoint.keep + (self.early_stop is not None and self.early_stop.keep == "best")

    @model_validator(mode="after")
    def _one_length(self) -> "TrainingStage":
        if self.epochs is not None and self.max_steps is not None:
            raise ValueError("give either epochs or max_steps")
        if self.streaming and self.max_steps is None:
            raise ValueError("streaming needs max_steps: the number of steps is not known before all is read")
        if self.early_stop is not None and self.max_steps is not None and self.early_stop.every >= self.max_steps:
            raise ValueError(f"early_stop has no effect: its first measurement is after all {self.max_steps} steps")
        return self
