"""recipe.yaml to a Recipe, and what is told of each mistake in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from fettle.errors import UserError
from fettle.recipe import load_recipe
from fettle.recipe.adapter import AdapterSpec
from fettle.recipe.optimizer import ScheduleSpec

HOUSE = """\
name: northline
base: tiny                       # bundled tiny model | folder | hub id
cluster: {workers: 2, zero: 2, precision: fp32}
adapter: {kind: lora, r: 16, alpha: 32}
stages:
  - {name: domain,   kind: pretrain,   data: corpus/*.txt}
  - {name: task,     kind: sft,        data: summaries.jsonl}
  - {name: instruct, kind: sft,        data: [{path: chat.jsonl}, {path: general.jsonl, weight: 0.2}]}
  - {name: polish,   kind: sft,        from: task, data: [chat.jsonl, {path: notes.txt, split: lines}]}
"""
ONE = "name: a\nstages:\n  - name: task\n    kind: sft\n    data: x.jsonl\n"


def stage(*lines: str) -> str:
    """The recipe ONE with more keys in its stage; the first of them is on line 6."""
    return ONE + "".join(f"    {line}\n" for line in lines)


def test_the_house_recipe_is_read_as_it_is_written(load):
    recipe = load(HOUSE)
    assert (recipe.name, recipe.base, recipe.cluster.workers, recipe.cluster.zero) == ("northline", "tiny", 2, 2)
    assert recipe.adapter == AdapterSpec(kind="lora", r=16, alpha=32)
    assert [(s.name, s.kind, s.from_) for s in recipe.stages] == [
        ("domain", "pretrain", None),
        ("task", "sft", None),
        ("instruct", "sft", None),
        ("polish", "sft", "task"),
    ]


def test_data_is_a_file_or_a_list_of_files_with_or_without_a_weight(load):
    sources = [[(d.path, d.weight, d.split) for d in stage.data] for stage in load(HOUSE).stages[1:]]
    assert sources == [
        [("summaries.jsonl", 1.0, "document")],
        [("chat.jsonl", 1.0, "document"), ("general.jsonl", 0.2, "document")],
        [("chat.jsonl", 1.0, "document"), ("notes.txt", 1.0, "lines")],
    ]


@pytest.mark.parametrize("written", ["1e-5", "1E-5", "+1e-5", "1.0e-5", "0.00001", "10e-6"])
def test_every_way_to_write_a_small_number_is_a_number(load, written):
    assert load(stage(f"lr: {written}")).stages[0].lr == pytest.approx(1e-5)


def test_a_word_stands_for_the_kind_of_a_schedule(load):
    assert load(stage("schedule: linear")).stages[0].schedule == ScheduleSpec(kind="linear")


def test_paths_are_relative_to_the_recipes_file(load, tmp_path):
    assert load(ONE).resolve("corpus/a.txt") == tmp_path / "corpus" / "a.txt"


def test_a_recipe_cannot_be_changed(load):
    with pytest.raises(ValueError, match="frozen"):
        load(ONE).seed = 3


def test_the_digest_is_of_the_settings_not_of_the_layout(load):
    flowed = "# the same\nstages: [{data: x.jsonl, kind: sft, name: task}]\nname: a\n"
    assert load(ONE).digest() == load(flowed).digest() == load(ONE, seed=0).digest() != load(ONE, seed=1).digest()


def test_a_field_has_the_line_of_its_key_or_of_what_holds_it(load):
    recipe = load(stage("batch: {tokens: 64}"))
    fields = ("name", "stages.task", "stages.task.data", "stages.task.batch.tokens", "stages.task.lr", "seed")
    assert [recipe.line(field) for field in fields] == [1, 3, 5, 6, 3, None]


@pytest.mark.parametrize(
    ("written", "field", "meant"),
    [
        ("ephocs: 2", "ephocs", "epochs"),
        ("batch: {token: 64}", "batch.token", "tokens"),
        ("cluster: {worker: 2}", "cluster.worker", "workers"),
        ("adapter: {kind: lora, rr: 4}", "adapter.rr", "r"),
        ("optimizer: {weight_decy: 0.1}", "optimizer.weight_decy", "weight_decay"),
        ("schedule: {kind: linear, warmpu: 0.1}", "schedule.warmpu", "warmup"),
        ("checkpoint: {evry: 3}", "checkpoint.evry", "every"),
        ("heldout: {fractoin: 0.1}", "heldout.fractoin", "fraction"),
        ("replay: {data: x, fractoin: 0.1}", "replay.fractoin", "fraction"),
    ],
)
def test_an_unknown_key_is_told_with_its_line_and_the_nearest_key(told, written, field, meant):
    message = told(stage(written))
    assert message.startswith(f"recipe.yaml:6: stages.task.{field}: unknown key (did you mean '{meant}'?)\n")
    assert f" {meant}" in message.splitlines()[1]  # among the expected ones


def test_an_unknown_key_of_a_source_is_told_with_the_sources_place(told):
    message = told(ONE.replace("x.jsonl", "[a.jsonl, {path: b.jsonl, wieght: 2}]"))
    assert message.startswith("recipe.yaml:5: stages.task.data.1.wieght: unknown key (did you mean 'weight'?)")


@pytest.mark.parametrize(
    ("text", "field", "meant"),
    [
        (ONE.replace("stages:", "stagse:"), "2: stagse", "stages"),
        (ONE.replace("name: a", "nmae: a"), "1: nmae", "name"),
        (ONE.replace("data:", "dtaa:"), "5: stages.task.dtaa", "data"),
    ],
)
def test_a_misspelt_key_that_is_needed_is_told_as_misspelt_not_as_missing(told, text, field, meant):
    assert told(text).startswith(f"recipe.yaml:{field}: unknown key (did you mean '{meant}'?)")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\n", "recipe.yaml: stages: this key is missing\n  fix: add `stages: …`"),
        (ONE.replace("    data: x.jsonl\n", ""), "recipe.yaml:3: stages.task.data: this key is missing\n  fix: add"),
        (ONE.replace("    kind: sft\n", ""), "recipe.yaml:3: stages.task.kind: a stage has a kind\n  expected: pretr"),
    ],
)
def test_a_missing_key_is_told_with_what_lacks_it(told, text, message):
    assert told(text).startswith(message)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("lr: fast", "lr: input should be a valid number, not 'fast'"),
        ("lr: -1", "lr: input should be greater than 0, not -1"),
        ("lr: '2'", "lr: input should be a valid number, not '2'"),
        ("max_steps: 1.5", "max_steps: input should be a valid integer, not 1.5"),
        ("max_steps: yes", "max_steps: input should be a valid integer, not True"),
        ("packing: 1", "packing: input should be a valid boolean, not 1"),
        ("cluster: 2", "cluster: input should be keys with values, not 2"),
        ("cluster: {zero: 4}", "cluster.zero: input should be 0, 1, 2 or 3, not 4"),
        ("schedule: wave", "schedule: input should be 'cosine', 'linear', 'constant' or 'wsd', not 'wave'"),
        ("adapter: {kind: lora, targets: q}", "adapter.targets: input should be a list or 'all-linear', not 'q'"),
        ("adapter: {kind: lora, r: many}", "adapter.r: input should be a valid integer, not 'many'"),
        ("adapter: {kind: lora, tokens: 8}", "adapter: tokens has no effect with lora; it belongs to prefix, prompt"),
        ("data: []", "data: this key stands twice"),
    ],
)
def test_a_value_of_the_wrong_type_is_told_with_what_it_is(told, written, message):
    assert told(stage(written)).splitlines()[0] == f"recipe.yaml:6: stages.task.{message}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\nstages: []\n", "recipe.yaml:2: stages: a list of at least 1, not of 0"),
        ("name: a\nstages: {task: 1}\n", "recipe.yaml:2: stages: input should be a list"),
        ("name: a\nstages:\n", "recipe.yaml:2: stages: input should be a list, not None"),
        ("name: a\nstages: [task]\n", "recipe.yaml:2: stages.0: input should be keys with values, not 'task'"),
        (ONE.replace("x.jsonl", "[]"), "recipe.yaml:5: stages.task.data: a list of at least 1, not of 0"),
        (ONE.replace("name: a", "name: 7"), "recipe.yaml:1: name: input should be a valid string, not 7"),
        (ONE.replace("name: a", "name: a b"), "recipe.yaml:1: name: string should match pattern"),
    ],
)
def test_a_recipe_of_the_wrong_shape_is_told_in_yamls_words(told, text, message):
    assert told(text).startswith(message)


def test_an_unknown_kind_is_told_with_its_line_and_the_nearest_kind(told):
    assert told(ONE.replace("kind: sft", "kind: stf")) == (
        "recipe.yaml:4: stages.task.kind: unknown kind 'stf' (did you mean 'sft'?)\n"
        "  expected: pretrain, sft, preference, reward, classify, rl, distill, merge, quantize"
    )


def test_a_stage_name_given_twice_is_told(told):
    assert told(ONE + "  - {name: task, kind: sft, data: y.jsonl}\n").startswith(
        "recipe.yaml:3: stages.task.name: two stages are called 'task'"
    )


def test_a_key_that_stands_twice_is_told_at_its_second_line(told):
    assert told(stage("lr: 1", "lr: 2")) == (
        "recipe.yaml:7: stages.task.lr: this key stands twice\n  fix: keep one of them"
    )


def test_from_a_stage_that_does_not_exist_is_told_with_the_nearest(told):
    message = told(HOUSE.replace("from: task", "from: tsak"))
    assert message == (
        "recipe.yaml:9: stages.polish.from: 'tsak' is neither an earlier stage nor a folder (did you mean 'task'?)\n"
        "  expected: one of domain, task, instruct, or an artifact's folder"
    )


def test_a_stage_cannot_begin_from_itself_or_a_later_one(told):
    assert "stages.task.from: 'task' is neither" in told(stage("from: task"))
    assert "stages.task.from: 'polish' is neither" in told(HOUSE.replace("name: task, ", "name: task, from: polish,"))


def test_a_stage_may_begin_from_a_folder(load, tmp_path):
    (tmp_path / "earlier").mkdir()
    assert load(stage("from: earlier")).stages[0].from_ == "earlier"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["batch: {tokens: 64, sequences: 4}"], "6: stages.task.batch: give either tokens: N or sequences: N"),
        (["batch: {}"], "6: stages.task.batch: give either tokens: N or sequences: N"),
        (["epochs: 1", "max_steps: 3"], "3: stages.task: give either epochs or max_steps"),
        (
            ["from: x", "base: tiny"],
            "3: stages.task: give either from (go on from a stage) or base (begin from a model)",
        ),
        (["heldout: {}"], "6: stages.task.heldout: give either data: FILE or fraction: SHARE"),
        (["heldout: {data: x, fraction: 0.1}"], "6: stages.task.heldout: give either data: FILE or fraction: SHARE"),
        (
            ["heldout: {data: {path: x, weight: 2}}"],
            "6: stages.task.heldout.data: weight has no effect here: it shares a stage's tokens out over the sources of"
            " its `data`",
        ),
        (["heldout: {data: x, max: 9}"], "6: stages.task.heldout: max goes with fraction; a file is taken whole"),
        (
            ["cluster: {offload: true, zero: 2}"],
            "6: stages.task.cluster: offload works with zero: 2 or 3 and gpus_per_worker: 1; set offload: false",
        ),
    ],
)
def test_settings_that_exclude_each_other_are_refused(told, lines, message):
    assert told(stage(*lines)) == f"recipe.yaml:{message}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "recipe.yaml: the file is empty\n  expected: a recipe: name, base, stages"),
        ("# nothing but a comment\n", "recipe.yaml: the file is empty"),
        ("a text", "recipe.yaml:1: a text, not a recipe"),
        ("[1, 2]", "recipe.yaml:1: a list, not a recipe"),
        ("name: a\nstages: [1\n", "recipe.yaml:3: not valid YAML: expected ',' or ']'"),
        ("\tname: a\n", "recipe.yaml:1: not valid YAML: found character '\\t' that cannot start any token"),
        ("name: a\nbase: x\x07\n", "recipe.yaml: not valid YAML: "),
        ("name: !!python/name:os.system\n", "recipe.yaml:1: not valid YAML: could not determine a constructor"),
        ("name: a\n---\nname: b\n", "recipe.yaml:2: not valid YAML: but found another document"),
        ("name: a\nbase: {{ model }}\n", "recipe.yaml:2: base: the key {'model': None} is no text"),
        ("name: a\non: 3\n", "recipe.yaml:2: the key True is no text\n  fix: put it in quotes"),
        ("name: caf\xe9\n".encode("latin-1"), "recipe.yaml: not UTF-8 (byte 9)\n  fix: save it as UTF-8"),
        ("name: a\n".encode("utf-16"), "recipe.yaml: not UTF-8 (byte 0)"),
    ],
)
def test_a_file_that_is_no_recipe_is_told(told, content, message):
    assert told(content).startswith(message)


def test_a_byte_order_mark_is_no_mistake(load):
    assert load(b"\xef\xbb\xbf" + ONE.encode()).name == "a"


def test_a_missing_file_and_a_folder_are_told(tmp_path):
    for path, message in ((tmp_path / "none.yaml", "no such recipe"), (tmp_path, "is a folder")):
        with pytest.raises(UserError, match=f"^{path}: {message}\n  expected: the path of a YAML file$"):
            load_recipe(path)


def test_a_recipe_knows_its_file_by_its_full_path(load, monkeypatch, tmp_path):
    load(ONE)
    monkeypatch.chdir(tmp_path)
    assert load_recipe("recipe.yaml").file == Path(tmp_path, "recipe.yaml")
