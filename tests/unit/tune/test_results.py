"""What a sweep came to: the best trial, the table, the page, and the best as a recipe of its own."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from fettle.pipeline.graph import plan_stages
from fettle.recipe import Recipe, load_recipe
from fettle.recipe.placed import placed
from fettle.train.checkpoint import Fence
from fettle.train.progress import ProgressWriter
from fettle.tune.best import write_best
from fettle.tune.budget import Budget
from fettle.tune.ledger import Past, Row
from fettle.tune.page import page, taken
from fettle.tune.results import best_of, in_words, line, results_of, short_names
from fettle.tune.study import Sweep

LR = "stages.answer.lr"
EVIL = "<script>alert('boo')</script>"


def rows_of(*scores: tuple[str, float | None, str]) -> list[Row]:
    """(id, score, state) of trials of three rounds."""
    found = []
    for number, (name, score, state) in enumerate(scores):
        settings = {LR: 10.0 ** -(number + 2)}
        past = tuple(Past(k, 6 * k, score + 3 - k, settings) for k in (1, 2, 3)) if score is not None else ()
        found.append(Row(name, settings, settings, state, score, steps=18, tokens=90, began=number, past=past))
    return found


def test_a_trial_that_came_to_its_end_is_better_than_one_that_was_stopped(swept):
    rows = rows_of(("a", 1.0, "stopped"), ("b", 2.0, "done"), ("c", 3.0, "done"), ("d", 0.5, "failed"))
    assert best_of(rows, swept().sweep).id == "b"
    assert best_of(rows, swept(metric={"mode": "max"}).sweep).id == "c"
    assert best_of(rows_of(("a", None, "failed")), swept().sweep) is None


def test_keys_are_called_by_as_few_words_as_tell_them_apart():
    keys = ("stages.answer.lr", "stages.read.lr", "adapter.r")
    assert short_names(keys) == dict(zip(keys, ("answer.lr", "read.lr", "r"), strict=True))
    assert in_words({"a.lr": 1e-3, "adapter": {"kind": "lora", "r": 4}}) == "lr 0.001, adapter {kind: lora, r: 4}"


def test_the_page_shows_all_trials_and_runs_nothing_that_they_say(swept, tmp_path):
    rows = rows_of(("a", 1.5, "done"), ("b", 2.0, "stopped"), ("c", None, "failed"))
    rows[2] = Row(**{**vars(rows[2]), "error": EVIL})
    text = page(results_of(swept(), tmp_path, rows, 12.0))
    parser = HTMLParser()
    parser.feed(text)
    assert text.count("<svg") == 2 and text.count('scope="row"') == 3
    assert EVIL not in text and "&lt;script&gt;" in text
    assert "http" not in text.replace("http://www.w3.org", "")


def test_weights_that_were_taken_over_are_told(swept, tmp_path):
    rows = rows_of(("a", 1.5, "done"), ("b", 2.0, "done"))
    rows[1] = Row(**{**vars(rows[1]), "past": (*rows[1].past[:1], Past(2, 12, 1.0, {LR: 0.012}, took="a"))})
    results = results_of(swept(), tmp_path, rows, 12.0)
    assert taken(results) == [(1, 2, 1, "lr 0.012")]
    assert "took the weights of" in page(results)


def test_the_best_recipe_lies_in_another_folder_and_is_the_trial_that_won(swept, tmp_path):
    """Fingerprints are of what is read, not of where it lies."""
    recipe = swept()
    out = tmp_path / "elsewhere" / "out"
    out.mkdir(parents=True)
    results = results_of(recipe, out, rows_of(("a", 1.5, "done")), 1.0)
    sweep = Sweep(recipe, out, Fence(out / ".epoch", "test"), {}, 1)
    write_best(sweep, results)
    best = load_recipe(out / "best.yaml")
    assert (best.stages[-1].lr, best.sweep) == (0.01, None)
    assert Path(best.stages[0].data[0].path).is_absolute()
    found, wanted = plan_stages(best, out), sweep.planned({LR: 0.01})
    assert [stage.fingerprint for stage in found] == [stage.fingerprint for stage in wanted]


@pytest.fixture
def scattered(tmp_path: Path) -> Recipe:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "tiny").mkdir()
    for name in ("corpus/a.txt", "chat.jsonl", "rewards.py", "held.jsonl"):
        (tmp_path / name).write_text("")
    told = {
        "name": "a",
        "base": "tiny",
        "stages": [
            {"name": "chat.jsonl", "kind": "pretrain", "data": "corpus/*.txt"},
            {"name": "b", "kind": "sft", "from": "chat.jsonl", "data": ["chat.jsonl", {"path": "org/name"}]},
            {
                "name": "c",
                "kind": "rl",
                "from": "b",
                "algorithm": "grpo",
                "prompts": "held.jsonl",
                "rewards": [{"function": "rewards.py:right"}],
                "iterations": 1,
            },
        ],
        "publish": {"registry": "registry"},
    }
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(told, sort_keys=False))
    return load_recipe(tmp_path / "a.yaml")


def test_paths_become_absolute_and_names_stay(scattered, tmp_path):
    tree = placed(scattered, ["tiny"])
    first, second, third = tree["stages"]
    assert first["data"] == f"{tmp_path}/corpus/*.txt"
    assert (second["from"], second["data"]) == ("chat.jsonl", [f"{tmp_path}/chat.jsonl", {"path": "org/name"}])
    assert third["rewards"] == [{"function": f"{tmp_path}/rewards.py:right"}]
    assert tree["publish"] == {"registry": f"{tmp_path}/registry"}
    assert (tree["base"], tree["name"]) == ("tiny", "a")


def test_a_trial_under_way_counts_as_far_as_it_has_come(swept, tmp_path):
    writer = ProgressWriter(tmp_path / "progress.jsonl")
    for step in (1, 2):
        writer.write(step=step, steps=18, loss=2.0, lr=1e-3, grad_norm=1.0, tokens=50, loss_tokens=20)
    row = Row("a", {LR: 1e-3}, {LR: 1e-3}, progress=(str(writer.file),))

    found = results_of(swept(), tmp_path, [row], 12.0)

    assert (found.steps, found.tokens) == (2, 100)
    assert Budget(swept(budget={"tokens": 100}).sweep.budget).reached(1.0, [row]) == "100 tokens"


def test_a_trials_line_says_how_many_are_over_and_which_it_is(swept):
    rows = rows_of(("a", 1.0, "done"), ("b", 2.0, "stopped"))
    assert line(rows[1], 1, rows, swept().sweep).startswith("1/5    trial 2   2.0000  stopped")


def test_a_recipe_for_another_folder_computes_the_same(root, tmp_path):
    demo = load_recipe(root / "recipes/demo.yaml")  # its rewards are a function in a file, and an earlier stage
    (tmp_path / "demo.yaml").write_text(yaml.safe_dump(placed(demo, ["tiny"]), sort_keys=False))
    here, there = (plan_stages(one, tmp_path) for one in (demo, load_recipe(tmp_path / "demo.yaml")))
    assert [stage.fingerprint for stage in here] == [stage.fingerprint for stage in there]
