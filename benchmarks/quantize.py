"""Quantised weights against the full ones in vLLM: size on disk, tokens/s, and how far log-probabilities move.

    python benchmarks/quantize.py [--base ../shared/models/base-8m] [--text FILE] [--wide 1024] [--layers 12]

Log-probabilities are compared with the full model's in float32 by transformers, on rows of a text; the full weights in
the engine's bfloat16 are the bound. Tokens are of greedy answers, one prompt at a time and many at once, a second of
the process's CPU time on one thread (a busy machine's clock tells little), the best of rounds in which all models take
turns; also of a Llama of random weights that is `--wide` wide, because a small model's time goes into Python.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from fettle.engine import EngineOptions, start_engine
from fettle.models.base import load_tokenizer, load_weights, resolve_base
from fettle.pipeline.quantize import quantize
from fettle.recipe.quantize import QuantizeStage
from house_format import ROOT, row, write_results

OPTIONS = EngineOptions(dtype="bfloat16", max_num_seqs=32, max_model_len=256, threads=1)
SCHEMES: dict[str, dict[str, int]] = {
    "8 bits": {"bits": 8},
    "4 bits, groups of 128": {"bits": 4, "group": 128},
    "4 bits, groups of 32": {"bits": 4, "group": 32},
}
LENGTH = 128
FULL = "full weights, bfloat16"


def main() -> None:
    options = _options()
    base = resolve_base(options.base)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        rows += _compared(base, options, folder / "real")
        if options.wide:
            wide = _random(base, folder / "wide", options.wide, options.layers)
            models = {FULL: wide} | _quantised(wide, folder / "quantised")
            rows += _speeds(models, options.rounds, f"Llama of {_millions(wide)} M random weights")
    used = f"1 thread; {Path(options.base).name}, {Path(options.text).name}"
    write_results("quantize", rows, used)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default=str(ROOT.parent / "shared" / "models" / "base-8m"))
    books = ROOT.parent / "shared" / "data" / "pretrain" / "books"
    parser.add_argument("--text", default=str(books / "peter_pan.txt"))
    parser.add_argument("--rows", type=int, default=32, help=f"of {LENGTH} tokens, scored")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--wide", type=int, default=1024, help="0 leaves the random Llama out")
    parser.add_argument("--layers", type=int, default=12)
    return parser.parse_args()


def _quantised(base: Path, folder: Path) -> dict[str, Path]:
    made = {}
    for number, (name, told) in enumerate(SCHEMES.items()):
        stage = QuantizeStage.model_validate({"name": "bench", "kind": "quantize", **told})
        made[name] = quantize(stage, str(base), folder / str(number), say=lambda text: None)
    return made


def _compared(base: Path, options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    import torch

    text = Path(options.text).read_text(encoding="utf-8")
    ids = load_tokenizer(base)(text)["input_ids"][: options.rows * LENGTH]
    tokens = torch.tensor(ids).view(-1, LENGTH)
    with torch.no_grad():
        scores = load_weights(base, torch.float32)(tokens).logits.log_softmax(-1)
    exact = scores[:, :-1].gather(2, tokens[:, 1:, None])[..., 0]
    models = {FULL: base} | _quantised(base, folder)
    moved, perplexity = {}, {}
    for name, model in models.items():
        engine = start_engine(model, OPTIONS)
        served = torch.tensor(engine.score(tokens.tolist()))
        engine.close()
        moved[name] = round(float((served - exact).abs().mean()), 4)
        perplexity[name] = round(float((-served.mean()).exp()), 2)
    rows = []
    for name in SCHEMES:
        size, whole = _mebibytes(models[name]), _mebibytes(base)
        rows.append(row(f"{name}: size on disk", "MiB", size, FULL, whole, whole / size, limit=False))
        told = (f"{name}: mean |Δ log-probability|", "nats", moved[name], FULL, moved[FULL])
        rows.append(row(*told, moved[FULL] / moved[name], limit=True))
        told = (f"{name}: perplexity", "", perplexity[name], FULL, perplexity[FULL])
        rows.append(row(*told, perplexity[FULL] / perplexity[name], limit=True))
    for one in rows:
        print(f"{one['what']}: {one['fettle']} {one['unit']}, {one['peer_value']} {one['peer']}, {one['ratio']}")
    return rows + _speeds(models, options.rounds, base.name)


def _speeds(models: dict[str, Path], rounds: int, of: str) -> list[dict[str, Any]]:
    """Tokens a CPU second of each, one sequence and 32 at once."""
    found: dict[tuple[str, int], list[float]] = {}
    for _ in range(rounds):
        for name, model in models.items():
            engine = start_engine(model, OPTIONS)
            for batch in (1, 32):
                _tokens_per_s(engine, batch, 8)  # warm
                found.setdefault((name, batch), []).append(_tokens_per_s(engine, batch, 64))
            engine.close()
    rows = []
    for name in SCHEMES:
        for batch in (1, 32):
            ours, full = (round(max(found[one, batch]), 1) for one in (name, FULL))
            what = f"{name}: answers, {batch} at once, {of}"
            rows.append(row(what, "tokens/CPU s", ours, FULL, full, ours / full, limit=False))
            print(f"{what}: {ours} tokens/CPU s, {full} {FULL}, {ours / full:.2f}")
    return rows


def _tokens_per_s(engine: Any, batch: int, count: int) -> float:
    from fettle.engine.sampling import Sampling

    prompts = [[5 + number, 6, 7, 8 + number] * 4 for number in range(batch)]
    began = time.process_time()
    engine.generate(prompts, Sampling(max_new_tokens=count, ignore_eos=True))
    return batch * count / (time.process_time() - began)


def _random(base: Path, folder: Path, wide: int, layers: int) -> Path:
    """A Llama of random bfloat16 weights with the base's tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    heads = {"num_attention_heads": wide // 64, "num_key_value_heads": wide // 256, "head_dim": 64}
    sizes = {"hidden_size": wide, "intermediate_size": 3 * wide, "num_hidden_layers": layers, **heads}
    tokenizer = load_tokenizer(base)
    config = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=512, tie_word_embeddings=True, **sizes)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _mebibytes(folder: Path) -> float:
    return round(sum(file.stat().st_size for file in folder.glob("*.safetensors")) / 2**20, 1)


def _millions(folder: Path) -> int:
    return round(_mebibytes(folder) * 2**20 / 2 / 1e6)


if __name__ == "__main__":
    main()
