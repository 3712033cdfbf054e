"""Two steps of every kind of stage for any family, and what its artifacts give by transformers alone."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy, logsigmoid
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from fettle.data.encode import encode
from fettle.data.formats import read_file
from fettle.data.tokens import TokenExample, TokenSet, grouped, write_tokens
from fettle.models.base import BUNDLED, load_tokenizer
from fettle.models.merge import Combination, write_merged
from fettle.pipeline.prepare import end_ids
from fettle.recipe.adapter import FULL, AdapterSpec
from fettle.recipe.kinds import STAGE_SPECS
from fettle.recipe.stages import BatchSpec
from fettle.train.job import StageJob
from gloo import stage_job

LORA = AdapterSpec(kind="lora", r=4, alpha=8)
LABELS = ("fares", "rules", "stations", "trains")
STEPS, LENGTH = 2, 96
_HELDOUT = 6
MakeJob = Callable[..., StageJob]


def make_family_jobs(root: Path, folder: Path) -> MakeJob:
    """`make(base, kind, name, adapter=FULL, accumulate=1, packing=None)`: a stage below `folder` that trains the model
    in `base` on some of Northline's records, encoded with the bundled tokenizer."""
    tokenizer = load_tokenizer(BUNDLED["tiny"])
    northline = root / "recipes" / "northline"
    with open(northline / "intents.csv", encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.reader(stream) if row[1] in LABELS][:40]
    with open(folder / "intents.csv", "w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([("text", "label"), *rows])
    paper = sorted((northline / "corpus").glob("*.txt"))[0]
    judged = list(read_file(northline / "preferences.jsonl")[1])[:40]
    pairs = list(grouped(encode(judged, tokenizer, max_length=LENGTH)))
    sets: dict[str, list[Any]] = {
        "pretrain": list(encode(read_file(paper)[1], tokenizer, max_length=LENGTH))[:40],
        "sft": list(encode(list(read_file(northline / "chat.jsonl")[1])[:40], tokenizer, max_length=LENGTH)),
        "preference": pairs,
        "reward": pairs,
        "classify": list(grouped(encode(read_file(folder / "intents.csv")[1], tokenizer, max_length=LENGTH), LABELS)),
    }
    for name, examples in sets.items():
        write_tokens(folder / name, examples[:-_HELDOUT])
        write_tokens(folder / f"{name}-heldout", examples[-_HELDOUT:])
    (folder / "epoch").write_text("test")

    def make(base: Path, kind: str, name: str, *, adapter: AdapterSpec = FULL, accumulate: int = 1, **keys: Any) -> Any:
        spec = STAGE_SPECS[kind].model_validate(
            {"name": name, "kind": kind, "data": "x", "max_steps": STEPS, "lr": 5e-3 if adapter != FULL else 1e-3}
            | {"batch": BatchSpec(sequences=6, accumulate=accumulate)}
            | keys
        )
        return stage_job(
            spec,  # type: ignore[arg-type]  # one that trains
            folder,
            base=base,
            adapter=adapter,
            tokens=((folder / kind,),),
            heldout=(folder / f"{kind}-heldout",),
            max_length=LENGTH,
            labels=LABELS if kind == "classify" else (),
            end_ids=end_ids(tokenizer),
        )

    return make


def merge(job: StageJob) -> Path:
    """The folder of a LoRA stage's adapter merged into its base, as `fettle merge` does it."""
    merged = job.artifact.with_name(f"{job.name}-merged")
    told = Combination(job.base, (job.artifact,), (1.0,))
    write_merged(merged, told, name=job.name, fingerprint="", end_ids=job.end_ids, chat_template=None)
    return merged


@torch.no_grad()
def loss_by_transformers(kind: str, folder: Path, examples: list[TokenExample]) -> float:
    """The stage's loss of a model's folder on some records, each text by itself, nothing padded."""
    auto: Any = AutoModelForSequenceClassification if kind in ("reward", "classify") else AutoModelForCausalLM
    model = by_transformers(auto, folder)

    def scores(ids: Any) -> torch.Tensor:
        return model(input_ids=torch.as_tensor(ids.astype("int64"))[None]).logits[0]

    if kind == "classify":
        found = [cross_entropy(scores(one.input_ids), torch.tensor(int(one.values[0]))) for one in examples]  # type: ignore[index]
        return float(torch.stack(found).mean())
    if kind == "reward":
        found = [logsigmoid(scores(one.parts[0]) - scores(one.parts[1])) for one in examples]
        return -float(torch.cat(found).mean())
    total, count = 0.0, 0
    for one in examples:
        ids, mask = torch.as_tensor(one.input_ids.astype("int64")), torch.tensor(one.loss_mask)[1:]
        logprobs = scores(one.input_ids)[:-1].log_softmax(-1).gather(1, ids[1:, None])[:, 0]
        total, count = total - float(logprobs[mask].sum()), count + int(mask.sum())
    return total / count


def by_transformers(auto: Any, folder: Path) -> Any:
    """The model in a folder by one of transformers' classes, in float32 and in evaluation.

    Gemma 2 not with torch's attention, the default, which leaves its soft-capping out; Falcon not with transformers'
    own, which adds its ALiBi twice (5.19).
    """
    is_capped = AutoConfig.from_pretrained(folder).model_type == "gemma2"
    told = {"attn_implementation": "eager"} if is_capped else {}
    return auto.from_pretrained(folder, dtype=torch.float32, **told).eval()


def heldout_of(job: StageJob) -> list[TokenExample]:
    """The records a job measures its loss on."""
    return list(TokenSet(*job.heldout))
