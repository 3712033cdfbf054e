"""`kind: distill`: a student learns from a teacher."""

from typing import Any, Literal

from pydantic import Field, model_validator

from fettle.recipe.stages import TrainingStage

_DIVERGENCE: dict[str, Any] = {"alpha": 0.5, "temperature": 1.0}
_LOSSES: dict[str, dict[str, Any]] = {
    "forward_kl": _DIVERGENCE,
    "reverse_kl": _DIVERGENCE,
    "jsd": _DIVERGENCE | {"beta": 0.5},
    "answers": {"max_new_tokens": 256, "temperature": None},
}


class DistillStage(TrainingStage):
    """A student, which is what the stage begins from, learns from a teacher: to give each token of the data the
    probability that the teacher gives it, or to answer as the teacher does."""

    kind: Literal["distill"]
    """Raw text, conversations or prompts with answers; with `loss: answers` prompts, whose own answers are not used."""
    teacher: str
    """An earlier stage that yields a language model, the bundled model's name, a folder (an artifact's too, adapter or
    not), or a hub id."""
    loss: Literal["forward_kl", "reverse_kl", "jsd", "answers"] = "forward_kl"
    """forward_kl, reverse_kl, jsd: a divergence between the teacher's next-token probabilities and the student's
    (Hinton et al. 2015, arXiv:1503.02531; Gu et al. 2023, arXiv:2306.08543; Agarwal et al. 2023, arXiv:2306.13649).
    answers: the teacher answers the prompts first, and the student learns its answers (Kim & Rush 2016,
    arXiv:1606.07947)."""
    alpha: float | None = Field(None, gt=0, le=1)
    """forward_kl, reverse_kl, jsd: the divergence's share of the loss; the rest is cross-entropy on the data's own
    tokens; 0.5 by default."""
    temperature: float | None = Field(None, gt=0)
    """forward_kl, reverse_kl, jsd: both distributions are softened by it, and the divergence is multiplied by its
    square; 1 by default. answers: answers are drawn at it; by default each token is the likeliest."""
    beta: float | None = Field(None, gt=0, lt=1)
    """jsd: the teacher's share of the mixture that both are compared with; towards 0 it is like forward_kl, towards 1
    like reverse_kl; 0.5 by default."""
    max_new_tokens: int | None = Field(None, ge=1)
    """answers: where an answer is broken off, which is then not learned; 256 by default."""

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_loss(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {**_LOSSES.get(str(value.get("loss", "forward_kl")), {}), **value}

    @model_validator(mode="after")
    def _keys_of_the_loss(self) -> "DistillStage":
        for key in dict.fromkeys(key for known in _LOSSES.values() for key in known):
            if getattr(self, key) is not None and key not in _LOSSES[self.loss]:
                losses = ", ".join(loss for loss, known in _LOSSES.items() if key in known)
                raise ValueError(f"{key} has no effect with loss: {self.loss}; it belongs to loss: {losses}")
        if self.loss == "answers" and self.streaming:
            raise ValueError("streaming has no effect with loss: answers: all prompts are answered before training")
        return self
