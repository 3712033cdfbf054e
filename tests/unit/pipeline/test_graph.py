"""What a stage begins from, how long its records are, and what of that is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from small_house import House, finish, write_base

from fettle.artifact import digest_folder
from fettle.errors import UserError

LORA = {"kind": "lora", "r": 4}
DOMAIN = {"name": "domain", "kind": "pretrain", "data": "corpus.txt"}
TASK = {"name": "task", "kind": "sft", "data": "chat.jsonl"}
LAST = {"name": "last", "kind": "sft", "data": "general.jsonl"}


def refused(house: House, **overrides: object) -> str:
    """The message of the mistake in the plan, without the house's folder."""
    with pytest.raises(UserError) as told:
        house.plan(**overrides)
    return str(told.value).replace(f"{house.folder}/", "")


def test_the_first_stage_begins_from_the_base_and_each_later_one_from_the_one_before(house):
    first, second, third = house.with_stages(DOMAIN, TASK, LAST).plan()
    assert (first.origin.base, first.origin.adapter) == (house.folder / "base", None)
    assert [second.origin.base, third.origin.base] == [first.artifact, second.artifact]
    assert [second.origin.identity, third.origin.identity] == [first.fingerprint, second.fingerprint]


def test_the_base_of_it_all_gives_tokenizer_and_positions_to_every_stage(house):
    assert [stage.origin.root for stage in house.plan()] == [house.folder / "base"] * 2
    assert [stage.max_length for stage in house.plan()] == [128, 128]


def test_from_names_an_earlier_stage(house):
    first, _, third = house.with_stages(DOMAIN, TASK, LAST | {"from": "domain"}).plan()
    assert third.origin.base == first.artifact


def test_a_stage_may_begin_from_a_base_of_its_own(house):
    write_base(house.folder / "small")
    _, second = house.with_stages(DOMAIN, TASK | {"base": "small"}).plan()
    assert second.origin.base == second.origin.root == house.folder / "small"


def test_an_adapter_goes_on_over_the_same_base(house):
    first, second, third = house.with_stages(DOMAIN, TASK, LAST, adapter=LORA).plan()
    assert first.origin.adapter is None
    assert [second.origin.adapter, third.origin.adapter] == [first.artifact, second.artifact]
    assert {stage.origin.base for stage in (first, second, third)} == {house.folder / "base"}


def test_full_training_over_an_adapter_is_refused_without_merge_first(house):
    message = refused(house.with_stages(DOMAIN, TASK | {"adapter": "full"}, adapter=LORA))
    assert message.startswith("recipe.yaml:")
    assert "stages.task.adapter: this stage begins from an adapter and asks for another one" in message
    assert message.endswith("fix: say merge_first: true to merge the earlier adapter into the weights first")


@pytest.mark.parametrize("other", [{"r": 8}, {"alpha": 4}, {"dropout": 0.1}, {"targets": ["q_proj"]}])
def test_another_adapter_over_an_adapter_is_refused_without_merge_first(house, other):
    house = house.with_stages(DOMAIN, TASK | {"adapter": LORA | other}, adapter=LORA)
    assert "begins from an adapter and asks for another one" in refused(house)
    assert house.plan(stages__task__merge_first=True)[1].adapter.kind == "lora"


def test_an_adapter_written_twice_is_the_same_one(house):
    assert house.with_stages(DOMAIN, TASK | {"adapter": LORA | {"alpha": 32}}, adapter=LORA).plan()


def test_full_training_after_merging_first_begins_from_both_and_yields_full_weights(house):
    stages = (DOMAIN, TASK | {"adapter": "full", "merge_first": True}, LAST | {"adapter": "full"})
    first, second, third = house.with_stages(*stages, adapter=LORA).plan()
    assert (second.origin.base, second.origin.adapter) == (house.folder / "base", first.artifact)
    assert second.base == house.folder / "base"
    assert (third.origin.base, third.origin.adapter) == (second.artifact, None)


def test_a_new_adapter_after_merging_first_lies_over_the_merged_weights_and_so_do_later_ones(house):
    stages = (DOMAIN, TASK | {"merge_first": True}, LAST)
    _, second, third = house.with_stages(*stages, adapter=LORA).plan()
    assert second.base == second.folder / "merged"
    assert (third.origin.base, third.origin.adapter) == (second.base, second.artifact)


@pytest.mark.parametrize("stages", [(DOMAIN | {"merge_first": True},), (DOMAIN, TASK | {"merge_first": True})])
def test_merge_first_without_an_adapter_is_refused(house, stages):
    message = refused(house.with_stages(*stages))
    assert f"stages.{stages[-1]['name']}.merge_first: merge_first has no effect" in message
    assert message.endswith("fix: remove it")


def test_a_stage_begins_from_an_adapters_folder_over_its_base(house):
    made = finish(adapter_stage(house))
    (stage,) = house.with_stages(LAST | {"from": str(made.path)}, adapter=LORA).plan()
    assert stage.origin.base == stage.origin.root == house.folder / "base"
    assert (stage.origin.adapter, stage.origin.identity) == (made.path, made.digest)


def test_full_training_from_an_adapters_folder_is_refused_without_merge_first(house):
    made = finish(adapter_stage(house))
    assert "begins from an adapter" in refused(house.with_stages(LAST | {"from": str(made.path)}))
    assert house.with_stages(LAST | {"from": str(made.path), "merge_first": True}).plan()


def test_an_adapters_folder_of_another_rank_is_refused_without_merge_first(house):
    made = finish(adapter_stage(house))
    other = {"kind": "lora", "r": 8}
    assert "asks for another one" in refused(house.with_stages(LAST | {"from": str(made.path)}, adapter=other))


def test_an_adapters_folder_whose_base_is_gone_is_refused(house):
    made = finish(adapter_stage(house))
    (house.folder / "base").rename(house.folder / "moved")
    message = refused(house.with_stages(LAST | {"from": str(made.path)}, adapter=LORA))
    assert "stages.last.from: the base of this adapter, base, is not there" in message


def test_an_adapters_folder_whose_base_has_changed_since_is_refused(house):
    made = finish(adapter_stage(house))
    (house.folder / "base" / "tokenizer.json").write_text("{}")
    message = refused(house.with_stages(LAST | {"from": str(made.path)}, adapter=LORA))
    assert "stages.last.from: its base base is not the one it was trained on (the digests differ)" in message


def test_an_adapter_that_fettle_did_not_make_is_refused(house):
    folder = house.folder / "peft"
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"r": 4}')
    (folder / "adapter_model.safetensors").write_bytes(b"")
    message = refused(house.with_stages(LAST | {"from": "peft"}, adapter=LORA))
    assert "stages.last.from: peft is an adapter without an artifact.json" in message


def test_a_full_artifact_is_known_by_its_digest_wherever_it_lies(house):
    made = finish(house.plan()[0])
    (stage,) = house.with_stages(LAST | {"from": str(made.path)}).plan()
    assert (stage.origin.base, stage.origin.identity, stage.origin.adapter) == (made.path, made.digest, None)


def test_a_base_that_is_no_artifact_is_known_by_its_files(house):
    assert house.plan()[0].origin.identity == digest_folder(house.folder / "base")


@pytest.mark.parametrize("key", ["base", "stages__task__base"])
def test_a_base_that_is_nowhere_is_told(house, key):
    message = refused(house.with_stages(TASK), **{key: "./nowhere"})
    assert (
        f"{key.replace('__', '.')}: no model './nowhere' (nowhere is not there)\n  expected: tiny, a folder" in message
    )


def test_a_max_length_above_the_models_positions_is_told_with_its_line(house):
    message = refused(house.with_stages(DOMAIN, TASK | {"max_length": 129}))
    assert message.startswith("recipe.yaml:") and message.endswith(
        ": stages.task.max_length: max_length 129 is above the 128 positions of base\n  fix: at most max_length: 128"
    )
    assert house.with_stages(DOMAIN, TASK | {"max_length": 128}).plan()


def test_by_default_a_record_has_at_most_2048_tokens_however_many_positions_there_are(house):
    config = house.folder / "base" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"max_position_embeddings": 131072}))
    assert [stage.max_length for stage in house.plan()] == [2048, 2048]


def test_data_that_is_not_there_is_told_with_the_recipes_line(house):
    message = refused(house.with_stages(TASK | {"data": "caht.jsonl"}))
    assert message.startswith("recipe.yaml:") and "stages.task.data: caht.jsonl: no such file or folder" in message
    assert "did you mean 'chat.jsonl'?" in message


@pytest.mark.parametrize("key", ["heldout", "replay"])
def test_held_out_and_replayed_data_that_is_not_there_is_told_too(house, key):
    told = {"heldout": {"data": "none.jsonl"}, "replay": {"data": "none.jsonl", "fraction": 0.1}}[key]
    assert f"stages.task.{key}.data: none.jsonl: no such file" in refused(house.with_stages(TASK | {key: told}))


def test_a_replay_fraction_is_the_share_of_all_tokens(house):
    data = [{"path": "chat.jsonl", "weight": 2.0}, {"path": "chat.jsonl"}]
    (stage,) = house.with_stages(TASK | {"data": data, "replay": {"data": "general.jsonl", "fraction": 0.25}}).plan()
    weights = [source.weight for source in stage.sources]
    assert weights == [2.0, 1.0, 1.0] and weights[-1] / sum(weights) == 0.25


def test_a_glob_is_all_its_files_in_order(house):
    (house.folder / "corpus2.txt").write_text("more")
    (stage,) = house.with_stages(DOMAIN | {"data": "corpus*.txt"}).plan()
    assert [file.name for file in stage.sources[0].opened.files] == ["corpus.txt", "corpus2.txt"]


def test_until_a_stage_that_is_not_there_is_told(house):
    with pytest.raises(UserError, match=r"--until tusk: no such stage\n  expected: domain, instruct"):
        house.plan(until="tusk")


def adapter_stage(house: House):  # type: ignore[no-untyped-def]
    """A planned adapter whose base is known by its digest."""
    return replace(house.with_stages(DOMAIN, adapter=LORA).plan()[0], artifact=Path(house.folder, "earlier"))


def test_an_earlier_stages_data_is_replayed_by_its_name_in_its_own_proportions(house):
    two = [{"path": "corpus.txt"}, {"path": "more.txt", "weight": 3.0}]
    (house.folder / "more.txt").write_text("More of it.")
    replay = {"data": "domain", "fraction": 0.5}
    _, stage = house.with_stages(DOMAIN | {"data": two}, TASK | {"replay": replay}).plan()
    assert [(source.opened.spec.path, source.weight) for source in stage.sources] == [
        ("chat.jsonl", 1.0),
        ("corpus.txt", 0.25),
        ("more.txt", 0.75),
    ]


def test_a_path_to_replay_goes_before_a_stage_of_the_same_name(house):
    (house.folder / "domain").mkdir()
    (house.folder / "domain" / "x.jsonl").write_text('{"text": "a"}\n')
    _, stage = house.with_stages(DOMAIN, TASK | {"replay": {"data": "domain", "fraction": 0.5}}).plan()
    assert stage.sources[1].opened.files == (house.folder / "domain" / "x.jsonl",)


@pytest.mark.parametrize("name", ["domani", "last", "task"])
def test_what_is_neither_a_path_nor_an_earlier_stage_is_refused_with_both_named(house, name):
    message = refused(house.with_stages(DOMAIN, TASK | {"replay": {"data": name, "fraction": 0.5}}, LAST))
    assert "stages.task.replay.data" in message and "no such file" in message
    assert "expected: a source of records, or an earlier stage (domain)" in message
