"""Quantising as a stage: what it begins from, what of that is refused, and that nothing begins from its result."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
from small_house import House, finish, write_base

from fettle.errors import UserError
from fettle.pipeline.planned import PlannedQuantize
from fettle.pipeline.prepare import prepare

LORA = {"kind": "lora", "r": 4}
TASK = {"name": "task", "kind": "sft", "data": "chat.jsonl"}
SMALL = {"name": "small", "kind": "quantize", "bits": 4}
LAST = {"name": "last", "kind": "sft", "data": "general.jsonl"}


def refused(house: House, **overrides: object) -> str:
    with pytest.raises(UserError) as told:
        house.plan(**overrides)
    return str(told.value).replace(f"{house.folder}/", "")


def quantized_base(house: House) -> Path:
    """A model that says it is quantised."""
    folder = write_base(house.folder / "small")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "gptq"}}))
    return folder


def test_full_weights_are_quantised_as_they_are_and_an_adapter_with_its_base(house):
    for adapter in ("full", LORA):
        task, small = house.with_stages(TASK, SMALL, adapter=adapter).plan()
        assert isinstance(small, PlannedQuantize)
        expected = (task.artifact, None) if adapter == "full" else (house.folder / "base", task.artifact)
        assert (small.origin.base, small.origin.adapter) == expected


def test_its_job_has_everything_resolved_and_travels_to_a_worker(house):
    house = house.with_stages(TASK, SMALL, adapter=LORA)
    task, small = house.plan()
    jobs, _ = prepare(house.recipe(), [task, small], house.out / "tokens")
    job = pickle.loads(pickle.dumps(jobs[-1]))
    assert (job.name, job.spec.bits, job.spec.group_size, job.adapter) == ("small", 4, 128, task.artifact)
    assert len(job.end_ids) == 2


@pytest.mark.parametrize(("key", "value"), [("bits", 8), ("group", 64)])
def test_bits_and_group_make_other_weights(house, key, value):
    house = house.with_stages(TASK, SMALL)
    assert house.fingerprints()[1] != house.fingerprints(**{f"stages__small__{key}": value})[1]


def test_what_has_no_effect_does_not_count(house):
    house = house.with_stages(TASK, SMALL, adapter="full")
    told = house.fingerprints()
    assert house.fingerprints(stages__small__group=128) == told
    assert house.fingerprints(stages__small__cluster={"workers": 2}) == told


def test_a_group_without_effect_is_refused_with_its_line(house):
    message = refused(house.with_stages(TASK, SMALL | {"bits": 8, "group": 32}))
    assert "stages.small: group has no effect with bits: 8" in message


def test_a_group_that_does_not_divide_the_layers_is_refused_with_one_that_does(house):
    config = {"model_type": "llama", "max_position_embeddings": 128, "hidden_size": 192, "num_attention_heads": 6}
    (house.folder / "base" / "config.json").write_text(json.dumps(config | {"num_key_value_heads": 6}))
    message = refused(house.with_stages(TASK, SMALL))
    assert "stages.small.kind: groups of 128 do not divide the 192 inputs of model.layers.0" in message
    assert "fix: set group: 64" in message


def test_no_stage_begins_from_a_quantised_one(house):
    begins = [LAST, {"name": "last", "kind": "merge"}, SMALL | {"name": "last", "bits": 8}]
    for last in begins:
        message = refused(house.with_stages(TASK, SMALL, last | {"from": "small"}))
        assert "stages.last.from: 'small' is quantised, for serving: no stage begins from weights that were" in message


def test_the_stage_after_it_goes_on_from_what_it_was_made_from(house):
    task, _, last = house.with_stages(TASK, SMALL, LAST, adapter="full").plan()
    assert last.origin.base == task.artifact


def test_quantised_folders_are_no_base_of_any_stage(house):
    quantized_base(house)
    said = "small is quantised, for serving: weights that were rounded are neither trained nor merged into"
    assert f"stages.last.from: {said}" in refused(house.with_stages(LAST | {"from": "small"}))
    assert f"stages.last.base: {said}" in refused(house.with_stages(LAST | {"base": "small"}))
    assert f"base: {said}" in refused(house.with_stages(LAST, base="small"))


def test_no_adapter_is_merged_into_quantised_weights(house):
    adapter = finish(house.with_stages(TASK, adapter=LORA).plan()[0]).path
    told = json.loads((adapter / "artifact.json").read_text())
    base = quantized_base(house)
    from fettle.models.base import digest_of

    told["base"] = {"path": str(base), "digest": digest_of(base)}
    (adapter / "artifact.json").write_text(json.dumps(told))
    message = refused(house.with_stages({"name": "whole", "kind": "merge", "from": str(adapter)}))
    assert "stages.whole.from: small is quantised" in message


def test_what_has_another_head_is_refused(house):
    config = {"model_type": "llama", "architectures": ["LlamaForSequenceClassification"]}
    (write_base(house.folder / "topics") / "config.json").write_text(json.dumps(config))
    message = refused(house.with_stages(SMALL | {"from": "topics"}))
    assert "stages.small.from: a LlamaForSequenceClassification is no causal language model" in message


def test_an_adapter_that_cannot_be_merged_cannot_be_quantised(house):
    adapter = finish(house.with_stages(TASK, adapter=LORA).plan()[0]).path
    (adapter / "adapter_config.json").write_text('{"peft_type": "PROMPT_TUNING"}')
    message = refused(house.with_stages(SMALL | {"from": str(adapter)}))
    assert "stages.small.from: this adapter cannot be merged: it is of kind prompt" in message
