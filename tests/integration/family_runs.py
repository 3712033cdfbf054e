"""One tiny random model of a family through recipes: planned, checked and encoded as `fettle run` does, and trained in
this process. What a family is refused for is what a user would be told."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from small_encoders import write_encoder
from transformers import AutoModelForCausalLM

from family_stages import LABELS, by_transformers, heldout_of, loss_by_transformers
from fettle.artifact import read_artifact
from fettle.cli.merge import stage_of
from fettle.engine import EngineOptions, start_engine
from fettle.models.family import family_of
from fettle.pipeline.graph import plan_stages
from fettle.pipeline.merge import merge
from fettle.pipeline.prepare import prepare
from fettle.pipeline.runner import STAGES
from fettle.recipe import load_recipe
from fettle.recipe.adapter import FULL
from fettle.recipe.cluster import ClusterSpec
from fettle.serving.resolve import fitted, resolve
from fettle.train.checkpoint import Fence
from fettle.train.job import GroupMember, StageJob
from fettle.train.worker import run_member
from gloo import losses
from models_of import write_model
from small_t5 import make_t5, northline_lines

ROOT = Path(__file__).parents[2]
NORTHLINE = ROOT / "recipes" / "northline"
TRAINED_TOLERANCE = 2e-5
SERVED_TOLERANCE = 1e-4  # nats
_ADAPTER_STD = 0.05  # of B, so that an adapter that is not applied shows
_OBJECTIVES = {"masked": "masked", "seq2seq": "span"}
Prompts = Sequence[Sequence[int]]
PROMPTS: Prompts = [list(range(5, 25)), list(range(300, 360)), [7] * 12]


class FamilyRun:
    """A family's base in `folder`, under the family's name, and records beside it. told: of `write_model`."""

    def __init__(self, family: str, folder: Path, **told: Any) -> None:
        folder.mkdir(parents=True)
        self.folder, self.base = folder, folder / family
        lines = northline_lines(ROOT)
        if family == "t5":
            make_t5(self.base, lines)
        elif family == "bert":
            write_encoder(self.base, lines)
        else:
            write_model(family, self.base, **told)
        self.family = family_of(self.base)
        _write_records(folder)
        (folder / "epoch").write_text("test")

    def packing(self) -> str:
        """`yes`, or why the records of a stage get a row each."""
        from fettle.models.packed import why_not_packed

        return why_not_packed(self.base, FULL) or "yes"

    def stage(self, kind: str, *, lora: bool = False) -> Path:
        """The artifact of a stage of two steps. Raises UserError where it is refused, AssertionError where it differs
        from transformers."""
        name = f"{kind}-lora" if lora else kind
        told: dict[str, Any] = {"name": name, "kind": kind, "data": f"{kind}.{_SUFFIX[kind]}", "max_steps": 2}
        told |= {"heldout": {"data": f"{kind}-heldout.{_SUFFIX[kind]}"}, "max_length": 64, "batch": {"sequences": 6}}
        told |= {"lr": 5e-3 if lora else 1e-3}
        if kind == "pretrain" and self.family in _OBJECTIVES:
            told["objective"] = _OBJECTIVES[self.family]
        recipe = {"name": name, "base": self.base.name, "adapter": {"kind": "lora", "r": 4} if lora else "full"}
        recipe |= {"cluster": {"workers": 1, "zero": 0, "precision": "fp32"}, "stages": [told]}
        file = self.folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump(recipe), encoding="utf-8")
        loaded, out = load_recipe(file), self.folder / name
        (job,), _ = prepare(loaded, plan_stages(loaded, out), out / "tokens")
        assert isinstance(job, StageJob)
        member = GroupMember(0, 1, ClusterSpec(workers=1, zero=0), Fence(self.folder / "epoch", "test"))
        run_member([(job, STAGES[kind])], member, None)
        if lora:
            _strengthen(job.artifact)
        else:
            self._check(kind, job)
        return job.artifact

    def _check(self, kind: str, job: StageJob) -> None:
        found = losses(job)
        if kind == "preference":
            assert abs(found[0] - 0.693147) < 1e-4, f"the first loss is {found[0]}, not log 2"
        elif self.family == "causal":
            ours = read_artifact(job.artifact).metrics["loss"]["heldout_after"]
            theirs = loss_by_transformers(kind, job.artifact, heldout_of(job))
            assert abs(ours - theirs) < TRAINED_TOLERANCE, f"a loss of {ours}, by transformers {theirs}"
        else:  # tests/integration/test_seq2seq_stage.py, test_masked_stage.py compare these with transformers
            assert all(loss == loss for loss in found)

    def merge(self, adapter: Path) -> Path:
        """The folder that `fettle merge` makes of an adapter."""
        merged = self.folder / "merged"
        return merge(stage_of([adapter], [], None, None), merged, seed=0, say=lambda line: None)

    def scores(self, model: Path, prompts: Prompts = PROMPTS) -> list[list[float]]:
        """By transformers, of every token of each prompt but the first, given those before it, in nats."""
        if self.family != "causal":
            return []
        loaded = by_transformers(AutoModelForCausalLM, model)
        return [_scores(loaded, prompt) for prompt in prompts]


def serve_scores(folder: str | Path, wanted: list[list[float]], prompts: Prompts = PROMPTS) -> None:
    """Resolves what lies in a folder as `fettle serve` does and scores some prompts by an engine over it.

    Raises UserError where it is refused, AssertionError where a log-probability is not the one wanted.
    """
    served = resolve(folder)
    engine = start_engine(served.folder, fitted(EngineOptions(max_model_len=96, max_num_seqs=8), served))
    try:
        for adapter in served.adapters:
            engine.add_adapter(adapter.name, adapter.folder)
        found = engine.score(prompts, served.primary if served.adapters else None)
    finally:
        engine.close()
    pairs = [(a, b) for one, other in zip(found, wanted, strict=True) for a, b in zip(one, other, strict=True)]
    farthest = max(abs(a - b) for a, b in pairs)
    print(f"largest difference {farthest:.1e} nats", flush=True)
    assert farthest < SERVED_TOLERANCE, f"log-probabilities are up to {farthest:.1e} nats off"


@torch.no_grad()
def _scores(model: Any, prompt: Sequence[int]) -> list[float]:
    logprobs = model(input_ids=torch.tensor([list(prompt)]), use_cache=False).logits[0, :-1].log_softmax(-1)
    found: list[float] = logprobs.gather(1, torch.tensor(prompt[1:])[:, None])[:, 0].tolist()
    return found


def _strengthen(adapter: Path) -> None:
    """Two steps change an adapter by little: its B at random instead."""
    from safetensors.torch import load_file, save_file

    file = adapter / "adapter_model.safetensors"
    torch.manual_seed(0)
    weights = {
        name: torch.randn_like(weight) * _ADAPTER_STD if "lora_B" in name else weight
        for name, weight in load_file(file).items()
    }
    save_file(weights, file, metadata={"format": "pt"})


_SUFFIX = {"pretrain": "txt", "sft": "jsonl", "preference": "jsonl", "reward": "jsonl", "classify": "csv"}


def _write_records(folder: Path) -> None:
    """By kind of stage 30 records to train on and six held out."""
    paper = sorted((NORTHLINE / "corpus").glob("*.txt"))[0].read_text(encoding="utf-8")
    (folder / "pretrain.txt").write_text(paper[:6000], encoding="utf-8")
    (folder / "pretrain-heldout.txt").write_text(paper[6000:7500] or paper[-1500:], encoding="utf-8")
    tasks = _rows("tasks.jsonl")
    pairs = [
        {"prompt": row["prompt"][-1]["content"]} | {key: row[key][0]["content"] for key in ("chosen", "rejected")}
        for row in _rows("preferences.jsonl")
        if len(row["prompt"]) == len(row["chosen"]) == len(row["rejected"]) == 1
    ]
    for kind, rows in (("sft", tasks), ("preference", pairs), ("reward", pairs)):
        lines = [json.dumps(row) + "\n" for row in rows[:36]]
        (folder / f"{kind}.jsonl").write_text("".join(lines[:30]), encoding="utf-8")
        (folder / f"{kind}-heldout.jsonl").write_text("".join(lines[30:]), encoding="utf-8")
    with open(NORTHLINE / "intents.csv", encoding="utf-8", newline="") as stream:
        known = [row for row in csv.reader(stream) if row[1] in LABELS]
    texts = [row for label in LABELS for row in [row for row in known if row[1] == label][:9]]
    for file, chosen in (("classify.csv", texts[::2]), ("classify-heldout.csv", texts[1::6])):
        with open(folder / file, "w", encoding="utf-8", newline="") as stream:
            csv.writer(stream).writerows([("text", "label"), *chosen])


def _rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (NORTHLINE / name).read_text(encoding="utf-8").splitlines()[:60]]
