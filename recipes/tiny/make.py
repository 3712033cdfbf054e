"""Makes the bundled tiny base model: tokenizer, pretraining on generated text, and the folder fettle ships.

python recipes/tiny/make.py --out platform/fettle/assets/tiny
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    pre_tokenizers,
    trainers,
)
from torch.nn.functional import cross_entropy
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from text import document

VOCAB, ROW_TOKENS, ROWS = 2048, 256, 8
HARDLY_SEEN = 16  # times in the whole text
HELD_OUT_SEED = 10_000_000  # pretraining documents count up from 0 and never get here
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
# Words with their leading space, digits one by one, punctuation, space: the split common to current models.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{%- if message['role'] not in ['system', 'user', 'assistant', 'tool'] -%}
{{- raise_exception('unknown role: ' ~ message['role']) -}}
{%- endif -%}
{{- '<|im_start|>' + message['role'] + '\\n' -}}
{%- if message['role'] == 'assistant' -%}
{%- generation -%}
{{- (message['content'] or '') + '<|im_end|>' -}}
{%- endgeneration -%}
{{- '\\n' -}}
{%- else -%}
{{- message['content'] + '<|im_end|>\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""


def make_tokenizer(num_documents: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE of `VOCAB` tokens trained on the first documents of the stream; any UTF-8 text round-trips."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((document(seed) for seed in range(num_documents)), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=SPECIAL[0],
        pad_token=SPECIAL[0],
        extra_special_tokens=list(SPECIAL[1:]),
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def make_model(seed: int) -> LlamaForCausalLM:
    """An untrained float32 model of 2.76 M parameters."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB,
            hidden_size=192,
            intermediate_size=512,
            num_hidden_layers=6,
            num_attention_heads=6,
            num_key_value_heads=2,
            head_dim=32,  # vLLM on CPU refuses 8
            max_position_embeddings=512,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=0,
            pad_token_id=0,
        )
    )


def token_stream(tokenizer: PreTrainedTokenizerFast, seed: int) -> Iterator[tuple[int, int]]:
    """(token, its position in its document), endless, from document `seed` on; each document ends in eos."""
    while True:
        texts = [document(seed + i) for i in range(256)]
        seed += len(texts)
        for ids in tokenizer(texts)["input_ids"]:
            yield from zip([*ids, tokenizer.eos_token_id], range(len(ids) + 1), strict=True)


def next_batch(
    stream: Iterator[tuple[int, int]], rows: int, row_tokens: int, exact: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and position ids [rows, row_tokens]; positions restart at each document, or run on unless `exact`."""
    pairs = torch.tensor([next(stream) for _ in range(rows * row_tokens)]).view(rows, row_tokens, 2)
    run_on = torch.arange(row_tokens).expand(rows, row_tokens)
    if not exact:
        return pairs[..., 0].contiguous(), run_on.contiguous()
    # A document that a row's start cuts counts from 0 there.
    starts = torch.where((pairs[..., 1] == 0) | (run_on == 0), run_on, 0).cummax(dim=1).values
    return pairs[..., 0].contiguous(), run_on - starts


def loss_of(model: Callable[..., Any], ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Mean nats per token over the next-token predictions that stay inside a document."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        # Without use_cache=False transformers lets the packed documents see each other, silently.
        logits = model(input_ids=ids, position_ids=positions, use_cache=False).logits
    labels = ids[:, 1:].masked_fill(positions[:, 1:] == 0, -100)
    return cross_entropy(logits[:, :-1].reshape(-1, VOCAB).float(), labels.reshape(-1))


def held_out_loss(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> float:
    """Nats per token on 65,536 tokens of documents the model was not trained on."""
    stream = token_stream(tokenizer, HELD_OUT_SEED)
    with torch.no_grad():
        return sum(loss_of(model, *next_batch(stream, ROWS, ROW_TOKENS, True)).item() for _ in range(32)) / 32


def pretrain(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, num_tokens: int, lr: float, compiled: bool
) -> torch.Tensor:
    """Train in place: AdamW, warm-up of 100 steps, cosine to a tenth, 2,048 tokens a step. Returns how often each token
    was seen, [VOCAB]."""
    steps = num_tokens // (ROWS * ROW_TOKENS)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    forward = torch.compile(model) if compiled else model
    stream = token_stream(tokenizer, 0)
    seen = torch.zeros(VOCAB, dtype=torch.long)
    started = time.monotonic()
    for step in range(steps):
        cosine = 0.1 + 0.45 * (1 + math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = lr * min((step + 1) / 100, cosine)
        # Documents are short: every eighth step runs on across them, so that positions up to 511 are trained too.
        is_long = step % 8 == 7
        shape = (ROWS // 2, ROW_TOKENS * 2) if is_long else (ROWS, ROW_TOKENS)
        ids, positions = next_batch(stream, *shape, exact=not is_long)
        seen += torch.bincount(ids.flatten(), minlength=VOCAB)
        loss = loss_of(forward, ids, positions)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 100 == 0 or step == steps - 1:
            spent = time.monotonic() - started
            print(f"step {step} tokens {seen.sum()} loss {loss.item():.3f} time {spent:.0f} s", flush=True)
    return seen


def part_unseen(embeddings: torch.Tensor, seen: torch.Tensor, seed: int) -> None:
    """Sets apart, in place, the rows of `embeddings` [VOCAB, hidden] whose tokens the text hardly holds.

    Tied to the output, they are pushed away from every answer alike and end as one vector: nothing trained over frozen
    embeddings could tell them apart. Each gets noise as wide as the other rows are.
    """
    rare = seen < HARDLY_SEEN
    noise = torch.randn(int(rare.sum()), embeddings.shape[1], generator=torch.Generator().manual_seed(seed))
    embeddings[rare] += (noise * embeddings[~rare].float().std(dim=0)).to(embeddings.dtype)


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write the folder; each file replaces its predecessor in one move."""
    out.mkdir(parents=True, exist_ok=True)
    model.generation_config = GenerationConfig(eos_token_id=[2, 0], pad_token_id=0)
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        model.bfloat16().save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
        for path in sorted(Path(scratch).iterdir()):
            path.chmod(0o644)  # safetensors writes 0600
            os.replace(path, out / path.name)


def main() -> None:
    """Make the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=6_000_000)
    parser.add_argument("--lr", type=float, default=2.5e-3)
    parser.add_argument("--seed", type=int, default=1, help="of the initial weights; the text has its own seeds")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true", help="half as fast again; needs a C++ compiler")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    tokenizer = make_tokenizer(num_documents=20_000)
    model = make_model(args.seed)
    seen = pretrain(model, tokenizer, args.tokens, args.lr, args.compile)
    model.eval()
    part_unseen(model.get_input_embeddings().weight.data, seen, args.seed)
    print(f"parameters {model.num_parameters()} held-out loss {held_out_loss(model, tokenizer):.3f} nats/token")
    save(model, tokenizer, args.out)


if __name__ == "__main__":
    main()
