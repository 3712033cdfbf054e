"""`base: {config, tokenizer}`: a model to begin from that has learned nothing yet."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from fettle.recipe.spec import Spec

DEFAULT_VOCABULARY = 8000


def _form(value: object) -> str:
    # So that a mistake in the keys is not told as one of a name. load.py knows tags by their brackets.
    return "<keys>" if isinstance(value, (dict, Spec)) else "<name>"


class TokenizerSpec(Spec):
    """A tokenizer trained on the data of the first stage, or of the one whose base it is: byte-level BPE (Sennrich et
    al. 2016, arXiv:1508.07909; over bytes: Radford et al. 2019, GPT-2, section 2.2)."""

    train: Literal[True]
    """`tokenizer: train` is enough."""
    vocab_size: int | None = Field(None, ge=300)
    """Tokens to learn, the special ones and the 256 bytes among them; 8000 by default, or as many as the data gives."""


class FromNothing(Spec):
    """A model of random weights, by the recipe's seed, made on the driver before the first stage and kept in the run's
    folder."""

    config: str | dict[str, Any]
    """Path of a config.json, or its keys: `model_type` and sizes by transformers' names. `vocab_size` and the special
    tokens' ids are those of the tokenizer."""
    tokenizer: Annotated[
        Annotated[TokenizerSpec, Tag("<keys>")] | Annotated[str, Tag("<name>")],
        Discriminator(_form),
        BeforeValidator(lambda value: {"train": True} if value == "train" else value),
    ]
    """`train`, or the model (bundled name, folder or hub id) whose tokenizer is taken."""

    @model_validator(mode="after")
    def _has_a_type(self) -> "FromNothing":
        if isinstance(self.config, dict):
            if not isinstance(self.config.get("model_type"), str):
                raise ValueError("config needs a model_type: llama, bert, t5, …")
            if "vocab_size" in self.config:
                raise ValueError("vocab_size has no effect in config: the tokenizer says it, by tokenizer.vocab_size")
        return self


Base = Annotated[Annotated[str, Tag("<name>")] | Annotated[FromNothing, Tag("<keys>")], Discriminator(_form)]
"""A model's name, or what to make one of."""
