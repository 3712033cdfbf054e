"""Tiny T5s and their kin with random weights, with a tokenizer of their own, made in a second."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModelForSeq2SeqLM,
    BartConfig,
    BartForConditionalGeneration,
    GenerationConfig,
    PreTrainedTokenizerFast,
    T5Tokenizer,
)

NUM_SENTINELS = 20
_WIDTH, _HEADS, _LAYERS = 32, 2, 2


def northline_lines(root: Path) -> list[str]:
    """Text for a tokenizer to be made of, and for a model to read: the bundled handbook and its tasks."""
    folder = root / "recipes" / "northline"
    texts = [file.read_text(encoding="utf-8") for file in sorted(folder.glob("corpus/*.txt"))]
    texts.append((folder / "tasks.jsonl").read_text(encoding="utf-8"))
    return [line for text in texts for line in text.splitlines() if line.strip()]


def make_t5(
    folder: Path,
    lines: Iterable[str],
    *,
    family: str = "t5",
    dropout: float = 0.0,
    is_tied: bool = True,
    seed: int = 0,
    **config: Any,
) -> Path:
    """A T5 (or mt5, umt5) of 55,000 weights in `folder`, with a Unigram tokenizer of `lines` and 20 sentinels.

    dropout: of the model; without it its losses depend on nothing but its tokens. is_tied: its output head is its
    embeddings; T5 1.1 and Flan-T5 have another (and `feed_forward_proj="gated-gelu"`). config: other settings.
    """
    tokenizer = T5Tokenizer(vocab=list(_unigram(lines)), extra_ids=NUM_SENTINELS)
    torch.manual_seed(seed)
    settings = {
        "vocab_size": len(tokenizer) + 4,  # as T5's own, which is rounded up
        "d_model": _WIDTH,
        "d_kv": _WIDTH // _HEADS,
        "d_ff": 2 * _WIDTH,
        "num_layers": _LAYERS,
        "num_heads": _HEADS,
        "dropout_rate": dropout,
        "decoder_start_token_id": 0,
        "tie_word_embeddings": is_tied,
    }
    model = AutoModelForSeq2SeqLM.from_config(AutoConfig.for_model(family, **settings | config))
    if not is_tied:
        model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight))
    model.generation_config = GenerationConfig(decoder_start_token_id=0, eos_token_id=1, pad_token_id=0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_bart(folder: Path, lines: Iterable[str]) -> Path:
    """A BART without dropout in `folder`, with a byte-level BPE tokenizer of `lines`, which begins every text too."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(lines, trainer)
    made.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    names = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "unk_token": "<unk>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", mask_token="<mask>", **names)
    half = {"layers": _LAYERS, "attention_heads": _HEADS, "ffn_dim": 2 * _WIDTH}
    sizes = {f"{name}_{key}": value for name in ("encoder", "decoder") for key, value in half.items()}
    torch.manual_seed(0)
    config = BartConfig(vocab_size=len(tokenizer), d_model=_WIDTH, max_position_embeddings=128, dropout=0.0, **sizes)
    BartForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _unigram(lines: Iterable[str], size: int = 400) -> Iterator[tuple[str, float]]:
    """Pieces with their log-probabilities, T5's special ones around them."""
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    specials = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=size, special_tokens=specials, unk_token="<unk>", show_progress=False)
    made.train_from_iterator(lines, trainer)
    pieces = dict(json.loads(made.to_str())["model"]["vocab"])
    yield from ((name, 0.0) for name in specials)
    yield from ((name, score) for name, score in pieces.items() if name not in specials)
    yield from ((f"<extra_id_{number}>", 0.0) for number in reversed(range(NUM_SENTINELS)))
