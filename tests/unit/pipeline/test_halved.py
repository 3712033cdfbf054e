"""Encoder-decoder models in a recipe: what is refused before anything starts, and what a worker is handed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from small_house import House, lines

from fettle.data.halves import split
from fettle.data.tokens import TokenSet
from fettle.errors import UserError
from fettle.models.base import load_tokenizer
from fettle.pipeline.prepare import prepare
from fettle.train.job import StageJob
from small_t5 import make_t5, northline_lines

SFT: dict[str, Any] = {"name": "task", "kind": "sft", "data": "pairs.jsonl"}
SPAN: dict[str, Any] = {"name": "read", "kind": "pretrain", "objective": "span", "data": "corpus.txt"}


@pytest.fixture(scope="session")
def t5(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_t5(tmp_path_factory.mktemp("t5") / "t5", northline_lines(root))


@pytest.fixture
def seq2seq(house: House, t5: Path) -> House:
    """The house with a T5 for a base, and pairs.jsonl."""
    pairs = [{"prompt": f"Say {number} again.", "completion": f"{number} again."} for number in range(20)]
    (house.folder / "pairs.jsonl").write_text(lines(pairs))
    return house.with_stages(SFT, base=str(t5))


def prepared(house: House) -> StageJob:
    (job,), _ = prepare(house.recipe(), house.plan(), house.out / "tokens")
    assert isinstance(job, StageJob)
    return job


@pytest.mark.parametrize(
    ("stage", "field", "got"),
    [
        (SFT | {"packing": True}, "stages.task.packing", "packing is not possible here: an encoder-decoder model"),
        (SFT | {"neftune": 5.0}, "stages.task.neftune", "neftune works with causal language models only"),
        (SFT | {"adapter": {"kind": "bottleneck"}}, "stages.task.adapter", "bottleneck"),
        (SFT | {"replay": {"data": "corpus.txt", "fraction": 0.1}}, "stages.task.replay", "holds raw text"),
        (SPAN | {"replay": {"data": "pairs.jsonl", "fraction": 0.1}}, "stages.read.replay", "holds questions"),
        (SPAN | {"objective": "causal"}, "stages.read.objective", "objective causal is not for t5"),
        (SFT | {"kind": "preference", "data": "prefer.jsonl"}, "stages.task.kind", "a stage of kind preference cannot"),
    ],
)
def test_what_an_encoder_decoder_cannot_do_is_refused(seq2seq: House, stage: Any, field: str, got: str) -> None:
    (seq2seq.folder / "prefer.jsonl").write_text(lines([{"prompt": "A?", "chosen": "B", "rejected": "C"}] * 9))

    with pytest.raises(UserError, match=re.escape(got)) as refused:
        prepared(seq2seq.with_stages(stage))

    assert str(refused.value.field).startswith(field)


def test_span_corruption_is_not_for_a_causal_model(house: House) -> None:
    with pytest.raises(UserError, match="objective span is not for base, a causal language model"):
        prepared(house.with_stages(SPAN))


@pytest.mark.parametrize(
    ("key", "objective", "got"),
    [("mask_rate", "causal", "mask_rate has no effect"), ("mean_span", "masked", "mean_span has no effect")],
)
def test_a_key_of_span_corruption_has_no_effect_elsewhere(house: House, key: str, objective: str, got: str) -> None:
    with pytest.raises(UserError, match=got):
        house.with_stages(SPAN | {"objective": objective, key: 1.0 if key == "mean_span" else 0.3}).recipe()


def without(folder: Path, file: str, key: str, t5: Path) -> Path:
    """A copy of the T5 of which a key of a file is gone."""
    for one in t5.iterdir():
        (folder / one.name).write_bytes(one.read_bytes())
    told = json.loads((folder / file).read_text())
    del told[key]
    (folder / file).write_text(json.dumps(told))
    return folder


def test_a_decoder_has_to_know_what_to_begin_with(seq2seq: House, t5: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    base = without(tmp_path / "other", "config.json", "decoder_start_token_id", t5)

    with pytest.raises(UserError, match="other does not say which token its decoder begins with"):
        prepared(seq2seq.with_stages(SFT, base=str(base)))


def test_span_corruption_needs_sentinels(seq2seq: House, house: House, t5: Path) -> None:
    told = json.loads((house.folder / "base" / "config.json").read_text())
    (house.folder / "base" / "config.json").write_text((t5 / "config.json").read_text())

    with pytest.raises(UserError, match="the tokenizer of base has no sentinel tokens"):
        prepared(house.with_stages(SPAN))
    assert told["model_type"] == "llama"


def test_records_become_prompts_and_answers_that_are_padded(seq2seq: House, t5: Path) -> None:
    job = prepared(seq2seq)

    tokenizer = load_tokenizer(t5)
    example = TokenSet(*job.tokens[0])[0]
    prompt, answer = (tokenizer.decode(half) for half in split(example.input_ids, example.loss_mask))
    assert (prompt, answer, job.packing) == ("Say 0 again.</s>", "0 again.</s>", False)


def test_a_streamed_stage_has_the_same_halves(seq2seq: House) -> None:
    from fettle.train.curriculum import StepsUnderway, curriculum

    found = []
    for streaming in (False, True):
        batch = {"sequences": 20}
        job = prepared(seq2seq.with_stages(SFT | {"streaming": streaming, "max_steps": 1, "batch": batch}))
        (step,) = StepsUnderway(curriculum(job))
        found.append(sorted(tuple(one.input_ids.tolist()) for one in step))
    assert set(found[0]) == set(found[1])
