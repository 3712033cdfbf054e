"""Which family a language model is of, and which of transformers' classes loads it, told from its config.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

Family = Literal["causal", "masked", "seq2seq"]
PADS_FIRST = ("roberta", "xlm-roberta", "camembert")
"""Encoders whose positions begin after that of the padding token: RoBERTa, and RoBERTa by other names."""


def family_of(folder: Path) -> Family:
    """causal: each token is predicted from those before it (Llama). masked: hidden tokens from all others (BERT).
    seq2seq: a decoder's from those before it and an encoder's text (T5)."""
    from transformers import AutoConfig

    return family_of_config(AutoConfig.from_pretrained(folder, trust_remote_code=False))


def family_of_config(config: Any) -> Family:
    """The same of a transformers configuration."""
    from transformers import MODEL_FOR_MASKED_LM_MAPPING

    if config.is_encoder_decoder:
        return "seq2seq"
    # BERT's configuration names a causal model too: one whose `is_decoder` is set.
    is_masked = type(config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False)
    return "masked" if is_masked else "causal"


def auto_class(family: Family) -> Any:
    """The auto class of models with the family's own output head."""
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

    return {"causal": AutoModelForCausalLM, "masked": AutoModelForMaskedLM, "seq2seq": AutoModelForSeq2SeqLM}[family]


def attention_of(config: Any) -> Literal["eager"] | None:
    """The attention a model of a transformers configuration needs; None leaves it to transformers, which takes torch's,
    or its own where it has no other (GPT-J, BLOOM).

    torch's attention has no soft-capped logits and transformers does not tell (5.19): Gemma 2 would be trained as
    another model than the one vLLM serves, 1e-3 nats off with two random layers.
    """
    return "eager" if getattr(config.get_text_config(), "attn_logit_softcapping", None) else None
