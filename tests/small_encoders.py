"""Small encoders with random weights and a WordPiece tokenizer, as `folder`s a stage can begin from."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForMaskedLM,
    BertConfig,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
)

POSITIONS = 66  # RoBERTa's text begins at the third
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": POSITIONS,
    "pad_token_id": 0,
}
_STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
CONFIGS = {
    "bert": BertConfig(**_SIZES, **_STILL),
    "roberta": RobertaConfig(**_SIZES, **_STILL, bos_token_id=2, eos_token_id=3, type_vocab_size=1),
    "distilbert": DistilBertConfig(
        dim=32,
        n_layers=2,
        n_heads=2,
        hidden_dim=64,
        max_position_embeddings=POSITIONS,
        pad_token_id=0,
        dropout=0.0,
        attention_dropout=0.0,
        seq_classif_dropout=0.0,
    ),
    "electra": ElectraConfig(**_SIZES, **_STILL, embedding_size=16),
    "modernbert": ModernBertConfig(**_SIZES, bos_token_id=2, eos_token_id=3, cls_token_id=2, sep_token_id=3),
}


def word_pieces(texts: Iterable[str], size: int = 400) -> PreTrainedTokenizerFast:
    """BERT's kind of tokenizer, learned from some texts."""
    inner = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    inner.normalizer, inner.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    inner.train_from_iterator(
        texts, trainers.WordPieceTrainer(vocab_size=size, special_tokens=list(_SPECIAL), show_progress=False)
    )
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    named = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), _SPECIAL, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=inner, **named)


def write_encoder(folder: Path, texts: Iterable[str], kind: str = "bert") -> Path:
    """A masked language model of one of CONFIGS."""
    tokenizer = word_pieces(texts)
    config = type(CONFIGS[kind])(**CONFIGS[kind].to_dict() | {"vocab_size": len(tokenizer)})
    torch.manual_seed(0)
    AutoModelForMaskedLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
