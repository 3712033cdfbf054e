"""Added tokens and padded vocabularies, with tied and untied heads: trained and merged as transformers has them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from family_stages import LORA, heldout_of, loss_by_transformers, merge
from fettle.artifact import read_artifact
from fettle.data.encode import encode
from fettle.data.formats import read_file
from fettle.data.tokens import write_tokens
from fettle.models.base import load_tokenizer, load_weights
from fettle.recipe.adapter import FULL
from fettle.recipe.kinds import SftStage
from fettle.recipe.stages import BatchSpec
from fettle.train.job import StageJob
from gloo import stage_job, train_alone
from models_of import write_model

TOLERANCE = 2e-5
ADDED = ("Zephyrion", "Quillabee")  # as 2048 and 2049
PADDED = 2112  # the bundled tokenizer's 2048 tokens, and a multiple of 64 above
CASES = {
    "padded, untied": {"vocab_size": PADDED, "tie_word_embeddings": False},
    "padded, tied": {"vocab_size": PADDED, "tie_word_embeddings": True},
    "added, untied": {"added": ADDED, "tie_word_embeddings": False},
    "added, tied": {"added": ADDED, "tie_word_embeddings": True},
}
MakeJob = Callable[[str, bool], StageJob]


@pytest.fixture(scope="module")
def make_job(tmp_path_factory: pytest.TempPathFactory) -> MakeJob:
    """`make_job(case, is_lora)`: an sft stage over questions about both words."""
    folder = tmp_path_factory.mktemp("vocabularies")
    (folder / "epoch").write_text("test")
    rows = [{"prompt": f"{ADDED[n % 2]} {n}?", "completion": f"It is {ADDED[n % 2]}, number {n}."} for n in range(30)]
    (folder / "words.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def make(case: str, is_lora: bool) -> StageJob:
        name = f"{case.replace(', ', '-')}-{'lora' if is_lora else 'full'}"
        base = write_model("llama", folder / f"{name}-base", **CASES[case])
        examples = list(encode(read_file(folder / "words.jsonl")[1], load_tokenizer(base), max_length=64))
        write_tokens(folder / f"{name}-tokens", examples[:-6])
        write_tokens(folder / f"{name}-heldout", examples[-6:])
        spec = SftStage(
            name=name, kind="sft", data="x", max_steps=2, batch=BatchSpec(sequences=6), lr=5e-3 if is_lora else 1e-3
        )
        return stage_job(
            spec,
            folder,
            base=base,
            adapter=LORA if is_lora else FULL,
            tokens=((folder / f"{name}-tokens",),),
            heldout=(folder / f"{name}-heldout",),
            max_length=64,
        )

    return make


@pytest.mark.parametrize("is_lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("case", CASES)
def test_what_is_trained_and_merged_is_what_transformers_makes_of_it(
    make_job: MakeJob, case: str, is_lora: bool
) -> None:
    job = train_alone(make_job(case, is_lora))
    whole = merge(job) if is_lora else job.artifact

    told = read_artifact(job.artifact).metrics["loss"]
    assert told["heldout_after"] == pytest.approx(loss_by_transformers("sft", whole, heldout_of(job)), abs=TOLERANCE)
    assert told["heldout_after"] < told["heldout_before"]
    base, model = (AutoModelForCausalLM.from_pretrained(one, dtype=torch.float32) for one in (job.base, whole))
    before, after = (one.get_input_embeddings().weight for one in (base, model))
    is_tied = model.get_output_embeddings().weight is after
    assert (before.shape, is_tied) == (after.shape, case.endswith(" tied"))
    # LoRA leaves the embeddings as they are, the rows of added tokens too; all others learn.
    assert torch.equal(before, after) == is_lora
    tokens, wanted = (load_tokenizer(one).get_vocab() for one in (whole, job.base))
    assert tokens == wanted


def test_added_tokens_are_tokens_of_their_own_in_the_data(make_job: MakeJob, tmp_path: Path) -> None:
    base = write_model("llama", tmp_path, added=ADDED)

    ids = load_tokenizer(base)("Zephyrion and Quillabee")["input_ids"]

    assert {2048, 2049} <= set(ids)
    assert load_weights(base, torch.float32).get_input_embeddings().weight.shape[0] == 2050
