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
