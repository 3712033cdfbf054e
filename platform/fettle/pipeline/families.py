"""Which family of language models a stage needs, checked before any worker starts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedTokenizerBase

from fettle.data.tokens import TokenSet
from fettle.errors import UserError
from fettle.models.attention import attend
from fettle.models.base import load_tokenizer, without_weights
from fettle.models.family import Family, family_of
from fettle.models.packed import why_not_packed
from fettle.pipeline.planned import PlannedStage
from fettle.recipe import Recipe
from fettle.recipe.kinds import PretrainStage

_OBJECTIVES: dict[str, Family] = {"causal": "causal", "masked": "masked", "span": "seq2seq"}
# Of stages whose loss is one family's. Those with a head of their own are checked where the head is (`check_head`).
_NEEDS: dict[str, tuple[Family, ...]] = {
    "sft": ("causal", "seq2seq"),
    "preference": ("causal",),
    "distill": ("causal",),
}
_FOR_ENCODERS = ("full", "freeze", "lisa", "lora", "dora")
_CALLED = {
    "causal": "a causal language model, which predicts the next token (such as Llama)",
    "masked": "an encoder, which predicts hidden tokens (such as BERT)",
    "seq2seq": "an encoder-decoder (such as T5)",
}


def check_family(recipe: Recipe, stage: PlannedStage) -> None:
    """Raises UserError where what the stage begins from is of a family that its objective or its kind is not for, has
    no token to hide others by, or cannot be packed as the recipe asks."""
    spec, family = stage.spec, family_of(stage.origin.root)

    def error(key: str, got: str, **more: Any) -> UserError:
        field = f"stages.{spec.name}.{key}"
        return UserError(got, **recipe.where(field), **more)

    if isinstance(spec, PretrainStage):
        if family != _OBJECTIVES[spec.objective]:
            fits = next(name for name, of in _OBJECTIVES.items() if of == family)
            raise error(
                "objective",
                f"objective {spec.objective} is not for {stage.origin.root.name}, {_CALLED[family]}",
                expected=f"objective: {fits}, or a base that is {_CALLED[_OBJECTIVES[spec.objective]]}",
            )
        if family == "masked" and load_tokenizer(stage.origin.root).mask_token_id is None:
            got = f"the tokenizer of {stage.origin.root.name} has no mask token"
            raise error("objective", got, fix='add "mask_token" to its tokenizer_config.json')
    elif family not in _NEEDS.get(spec.kind, (family,)):
        wanted = ", or ".join(_CALLED[one] for one in _NEEDS[spec.kind])
        got = f"a stage of kind {spec.kind} cannot begin from {stage.origin.root.name}, {_CALLED[family]}"
        raise error("kind", got, expected=wanted)
    if getattr(spec, "kl_to_base", None) is not None and family != "causal":
        got = f"{stage.origin.root.name} is {_CALLED[family]}, and kl_to_base compares next tokens"
        raise error("kl_to_base", got, expected=_CALLED["causal"], fix="remove it, or replay earlier data")
    if family == "masked" and stage.adapter.kind not in _FOR_ENCODERS:
        got = f"adapter {stage.adapter.kind} is not for {stage.origin.root.name}, {_CALLED[family]}"
        raise error("adapter", got, expected=", ".join(_FOR_ENCODERS))
    if spec.attention in ("sdpa", "eager"):  # flash: where the workers are
        try:
            attend(without_weights(stage.origin.root), spec.attention)
        except ValueError as mistake:
            raise error("attention", str(mistake), fix="remove it, or say attention: auto") from None
    if spec.packing and (reason := _why_not_packed(stage)):
        raise error("packing", f"packing is not possible here: {reason}", fix="remove it, or say packing: false")


def check_vocabulary(
    recipe: Recipe, stage: PlannedStage, tokenizer: PreTrainedTokenizerBase, tokens: Sequence[Path]
) -> None:
    """Raises UserError where one of the encoded records has a token that the model has no row for. tokens: the folders
    of encoded records; a tokenizer with more tokens than those in use does no harm (Gemma 3's has one)."""
    rows = AutoConfig.from_pretrained(stage.origin.root, trust_remote_code=False).get_text_config().vocab_size
    if not tokens or max(tokenizer.get_vocab().values()) < rows or (found := TokenSet(*tokens).largest_id()) < rows:
        return
    field = f"stages.{stage.spec.name}.data"
    raise UserError(
        f"the data has the token {tokenizer.convert_ids_to_tokens(found)!r} ({found}), and {stage.origin.root.name} has"
        f" rows for {rows:,} tokens only",
        **recipe.where(field),
        expected="a model with a row for each of its tokenizer's tokens",
        fix="give the base its rows with transformers: model.resize_token_embeddings(len(tokenizer)), and save both",
    )


def packs(stage: PlannedStage) -> bool:
    """Whether several records lie in one row: as the recipe says, else wherever the model and the stage's kind can."""
    told = stage.spec.packing
    return _why_not_packed(stage) is None if told is None else told


def _why_not_packed(stage: PlannedStage) -> str | None:
    root = stage.origin.root
    if family_of(root) == "masked" and not isinstance(stage.spec, PretrainStage):
        return "an encoder's head reads the first token of each row"
    return why_not_packed(root, stage.adapter)
