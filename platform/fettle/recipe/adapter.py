"""`adapter`: train all the weights, some of them, or a small adapter beside frozen ones."""

from typing import Any, Literal

from pydantic import Field, model_validator

from fettle.recipe.spec import Spec, check_keys, with_defaults

AdapterKind = Literal["full", "freeze", "lisa", "lora", "dora", "ia3", "prefix", "prompt", "bottleneck"]
_LOW_RANK: dict[str, Any] = {
    "r": 16,
    "alpha": 32.0,
    "dropout": 0.0,
    "targets": "all-linear",
    "rslora": False,
    "lr_ratio": None,
    "bits": None,
}
_KINDS: dict[str, dict[str, Any]] = {
    "full": {},
    "freeze": {"layers": 2},
    "lisa": {"layers": 2, "every": 20},
    "lora": _LOW_RANK,
    "dora": _LOW_RANK,
    "ia3": {"bits": None},
    "prefix": {"tokens": 16},
    "prompt": {"tokens": 16},
    "bottleneck": {"size": 64},
}


class AdapterSpec(Spec):
    """Which weights a stage trains: the model's own (full, freeze, lisa: the artifact holds full weights), or an
    adapter's beside frozen ones (all others: the artifact holds the adapter). `adapter: full` is enough to name the
    kind; keys without a default of their own belong to the kinds they name."""

    kind: AdapterKind = "full"
    """full: every weight. freeze: the last layers alone. lisa: a few layers at a time, chosen at random (Pan et al.
    2024, arXiv:2403.17919). lora: low-rank updates (Hu et al. 2021, arXiv:2106.09685). dora: low-rank updates of the
    direction, and the length by itself (Liu et al. 2024, arXiv:2402.09353). ia3: learned factors on keys, values and
    feed-forwards (Liu et al. 2022, arXiv:2205.05638). prefix: learned keys and values before each layer's (Li & Liang
    2021, arXiv:2101.00190). prompt: learned embeddings before the input (Lester et al. 2021, arXiv:2104.08691).
    bottleneck: small networks inside each layer (Houlsby et al. 2019, arXiv:1902.00751)."""
    r: int | None = Field(None, ge=1)
    """lora, dora: rank of the update; 16 by default."""
    alpha: float | None = Field(None, gt=0)
    """lora, dora: the update is scaled by alpha / r; 32 by default."""
    dropout: float | None = Field(None, ge=0, lt=1)
    """lora, dora: dropout on the adapter's input; 0 by default."""
    targets: tuple[str, ...] | Literal["all-linear"] | None = None
    """lora, dora: names of the modules that get an update; by default every linear layer but the output head."""
    rslora: bool | None = None
    """lora, dora: scale by alpha / √r instead, which keeps large ranks learning (Kalajdzievski 2023,
    arXiv:2312.03732)."""
    lr_ratio: float | None = Field(None, gt=1)
    """lora, dora: the learning rate of the matrices B over that of A, `lr` (LoRA+: Hayou et al. 2024, arXiv:2402.12354,
    try 16); 1 by default."""
    bits: Literal[4, 8] | None = None
    """lora, dora (4 alone), ia3: the frozen weights lie in so many bits (4: NF4 with double quantisation, QLoRA:
    Dettmers et al. 2023, arXiv:2305.14314; 8: LLM.int8(): Dettmers et al. 2022, arXiv:2208.07339)."""
    tokens: int | None = Field(None, ge=1)
    """prefix, prompt: how many are learned; 16 by default."""
    size: int | None = Field(None, ge=1)
    """bottleneck: width of the small networks; 64 by default."""
    layers: int | None = Field(None, ge=1)
    """freeze: so many layers are trained, the last ones, with the head; lisa: so many at a time, with the embeddings
    and the head; 2 by default."""
    every: int | None = Field(None, ge=1)
    """lisa: optimizer steps after which other layers are chosen; 20 by default."""

    @property
    def is_beside(self) -> bool:
        """Whether what is trained lies beside the model's weights, which stay as they are."""
        return self.kind not in ("full", "freeze", "lisa")

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_kind(cls, value: Any) -> Any:
        return with_defaults(value, "full", _KINDS)

    @model_validator(mode="after")
    def _keys_of_the_kind(self) -> "AdapterSpec":
        check_keys(self, _KINDS)
        if self.kind == "dora" and self.bits == 8:
            raise ValueError("dora works with bits: 4: with 8 PEFT loses the scales of the weights it measures on CPUs")
        return self


FULL = AdapterSpec()
