"""The kinds of stages, each with its own keys."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fettle.recipe.distill import DistillStage
from fettle.recipe.merge import MergeStage
from fettle.recipe.quantize import QuantizeStage
from fettle.recipe.rl import RlStage
from fettle.recipe.stages import StageBase, TrainingStage


class _NextTokenStage(TrainingStage):
    kl_to_base: float | None = Field(None, gt=0)
    """Against forgetting: so many times KL(base ‖ model) is added to the loss at each token that bears loss, replayed
    ones too. The base is the untuned model, which is held in memory beside the one that learns (learning without
    forgetting: Li & Hoiem 2016, arXiv:1606.09282, equation 2)."""


class PretrainStage(_NextTokenStage):
    """Pre-training on raw text, continued or from nothing; every token bears loss, or those that are hidden."""

    kind: Literal["pretrain"]
    """Raw text."""
    objective: Literal["causal", "masked", "span"] = "causal"
    """What is predicted. causal: the next token (Llama). masked: hidden tokens, from those around them (BERT: Devlin et
    al. 2018, arXiv:1810.04805). span: hidden stretches of text, by an encoder-decoder (T5: Raffel et al. 2019,
    arXiv:1910.10683, section 3.1.4)."""
    mask_rate: float | None = Field(None, gt=0, lt=1)
    """masked, span: share of the tokens that is hidden; 0.15 by default."""
    mean_span: float | None = Field(None, ge=1)
    """span: how many tokens in a row are hidden, on average; 3 by default."""

    @model_validator(mode="after")
    def _hides_something(self) -> "PretrainStage":
        if self.kl_to_base is not None and self.objective != "causal":
            raise ValueError(f"kl_to_base is of next tokens, which objective: {self.objective} does not predict")
        if self.mask_rate is not None and self.objective == "causal":
            raise ValueError("mask_rate has no effect with objective: causal; it belongs to masked and span")
        if self.mean_span is not None and self.objective != "span":
            raise ValueError(f"mean_span has no effect with objective: {self.objective}; it belongs to span")
        return self


class SftStage(_NextTokenStage):
    """Supervised fine-tuning on conversations and prompt/completion pairs; only the answers bear loss."""

    kind: Literal["sft"]
    """Conversations and prompts with answers."""
    neftune: float | None = Field(None, gt=0)
    """Noise on the embeddings while training, of this alpha (Jain et al. 2023, arXiv:2310.05914, try 5): answers get
    longer and mostly better. It depends on how the examples lie in rows: other losses with other workers or packing."""

    @model_validator(mode="after")
    def _one_of_two(self) -> "SftStage":
        if self.kl_to_base is not None and self.neftune is not None:
            raise ValueError("neftune's noise would be measured as a distance from the base; remove it, or kl_to_base")
        return self


class _WholeRecordsStage(TrainingStage):
    @model_validator(mode="after")
    def _not_streamed(self) -> "_WholeRecordsStage":
        if self.streaming:
            raise ValueError("streaming works with pretrain and sft: these records are encoded before training")
        return self


class PreferenceStage(_WholeRecordsStage):
    """Learning which of several answers is preferred, from pairs or from answers judged by themselves."""

    kind: Literal["preference"]
    """Preferred and rejected answers."""
    loss: Literal["dpo", "cdpo", "ipo", "kto", "orpo", "simpo"] = "dpo"
    """The objective."""
    beta: float | None = Field(None, gt=0)
    """How strongly the policy is held to its reference (dpo, cdpo, ipo, kto); the odds ratio's weight (orpo); the
    reward's scale (simpo); 0.1 by default, of simpo 2."""
    label_smoothing: float | None = Field(None, gt=0, lt=0.5)
    """cdpo: the share of pairs that are labelled the wrong way round; 0.1 by default."""
    target_margin: float | None = Field(None, ge=0)
    """simpo: by how much the reward of the chosen answer shall be larger (gamma); 0.5 by default."""
    desirable_weight: float | None = Field(None, gt=0)
    """kto: weight of good answers; 1 by default."""
    undesirable_weight: float | None = Field(None, gt=0)
    """kto: weight of bad answers; 1 by default."""

    @model_validator(mode="after")
    def _keys_of_the_loss(self) -> "PreferenceStage":
        for key, loss in _KEYS_OF_LOSSES.items():
            if getattr(self, key) is not None and self.loss != loss:
                raise ValueError(f"{key} has no effect with loss: {self.loss}; it belongs to loss: {loss}")
        return self


_KEYS_OF_LOSSES = {
    "label_smoothing": "cdpo",
    "target_margin": "simpo",
    "desirable_weight": "kto",
    "undesirable_weight": "kto",
}


class RewardStage(_WholeRecordsStage):
    """A reward model: one number for an answer, higher for the preferred one (Bradley & Terry 1952)."""

    kind: Literal["reward"]
    """Preferred and rejected answers."""
    margin: bool = False
    """The reward of the better answer shall be higher by the records' `margin`, or the difference of their scores."""
    centre: float = Field(0.0, ge=0)
    """Weight of the squared sum of a pair's rewards, which keeps them around zero."""


class ClassifyStage(_WholeRecordsStage):
    """A text classifier: a new head over the language model's body."""

    kind: Literal["classify"]
    """Texts with labels."""
    labels: tuple[str, ...] | None = Field(None, min_length=2)
    """The labels in the order of the head's rows; by default those of the data, sorted."""
    unfreeze: Literal["all", "head"] | Annotated[int, Field(ge=1)] = "all"
    """Which weights are trained: all, the head alone, or the head and the last N layers: at first the head, then one
    more layer from the top after each of N + 1 equal parts of the steps (gradual unfreezing: Howard & Ruder 2018,
    ULMFiT, arXiv:1801.06146, section 3.3)."""
    layer_decay: float = Field(1.0, gt=0, le=1)
    """Each layer's learning rate is so many times that of the layer above it; the head's is `lr` (discriminative
    fine-tuning: ULMFiT, section 3.2, uses 1 / 2.6)."""


YIELDS_MODEL = ("pretrain", "sft", "preference", "rl", "distill", "merge")
"""Kinds of stages whose result is a language model, from which any other may begin."""
OF_PARTS = ("preference", "reward", "classify")
"""Kinds of stages that learn from a record as a whole: its answers together, or its text with its label."""
Stage = Annotated[
    PretrainStage
    | SftStage
    | PreferenceStage
    | RewardStage
    | ClassifyStage
    | RlStage
    | DistillStage
    | MergeStage
    | QuantizeStage,
    Field(discriminator="kind"),
]
STAGE_SPECS: dict[str, type[StageBase]] = {
    "pretrain": PretrainStage,
    "sft": SftStage,
    "preference": PreferenceStage,
    "reward": RewardStage,
    "classify": ClassifyStage,
    "rl": RlStage,
    "distill": DistillStage,
    "merge": MergeStage,
    "quantize": QuantizeStage,
}
