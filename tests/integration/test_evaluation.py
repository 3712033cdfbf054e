"""Answers of a base and of what became of it: greedy generation, alone or in a batch, and a recipe's `evaluate`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from browser import look_at_report
from fettle.cli.main import app
from fettle.errors import UserError
from fettle.evaluate.generate import answers, cut_prompt
from fettle.models.base import load_tokenizer
from fettle.models.generate import load_speaker
from fettle.pipeline.evaluation import check_evaluations, compare
from fettle.pipeline.gate import check_publishable, judge
from fettle.pipeline.graph import plan_stages
from fettle.pipeline.page import write_report
from fettle.pipeline.planned import Planned
from fettle.pipeline.prepare import prepare
from fettle.pipeline.report import make_report
from fettle.recipe import Recipe, load_recipe
from gloo import train_alone
from small_t5 import make_t5, northline_lines

PROMPTS = ("Give me the first sentence.", "How much is a dog ticket?", "Which platform, and when does the train leave?")
NEW = 12


@pytest.fixture(scope="module")
def t5(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_t5(tmp_path_factory.mktemp("t5") / "t5", northline_lines(root))


def by_hand(model: Any, prompt: list[int], end_ids: list[int]) -> list[int]:
    """The likeliest token after the other, up to an end."""
    is_seq2seq, said = model.config.is_encoder_decoder, list[int]()
    with torch.no_grad():
        for _ in range(NEW):
            given = torch.tensor([[0, *said] if is_seq2seq else [*prompt, *said]])
            more = {"input_ids": torch.tensor([prompt]), "decoder_input_ids": given} if is_seq2seq else {}
            token = int(model(**(more or {"input_ids": given})).logits[0, -1].argmax())
            if token in end_ids:
                break
            said.append(token)
    return said


@pytest.mark.parametrize("which", ["tiny", "tiny with an adapter", "t5"])
def test_answers_are_greedy_and_the_same_beside_others(
    tiny: Path, t5: Path, loras: dict[str, Path], which: str
) -> None:
    base = t5 if which == "t5" else tiny
    model = load_speaker(base, loras["polite"] if which == "tiny with an adapter" else None)
    tokenizer = load_tokenizer(base)
    prompts = [np.asarray(tokenizer(text)["input_ids"]) for text in PROMPTS]
    ends = [tokenizer.eos_token_id]

    found = dict(answers(model, tokenizer, prompts, end_ids=ends, max_new_tokens=NEW))

    wanted = [by_hand(model, prompt.tolist(), ends) for prompt in prompts]
    assert [found[place].text for place in range(3)] == [
        tokenizer.decode(said, skip_special_tokens=True).strip() for said in wanted
    ]
    assert [found[place].is_ended for place in range(3)] == [len(said) < NEW for said in wanted]


def test_a_long_prompt_keeps_what_asks_for_the_answer() -> None:
    ids = np.arange(10)

    assert cut_prompt(ids, 4, is_seq2seq=False).tolist() == [6, 7, 8, 9]
    assert cut_prompt(ids, 4, is_seq2seq=True).tolist() == [0, 1, 2, 9]
    assert cut_prompt(ids, 10, is_seq2seq=True).tolist() == ids.tolist()


def recipe_of(folder: Path, base: Path, adapter: Any, **evaluate: Any) -> Recipe:
    rows = [{"prompt": f"Say {word} again.", "completion": word} for word in ("night", "train", "dog", "ticket") * 12]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "shots.jsonl").write_text(json.dumps({"prompt": "Say lounge again.", "completion": "lounge"}) + "\n")
    stage = {"name": "task", "kind": "sft", "data": "pairs.jsonl", "max_steps": 40, "lr": 1e-2}
    stage |= {"batch": {"sequences": 16}, "max_length": 32, "adapter": adapter, "heldout": {"data": "pairs.jsonl"}}
    judged = {"kind": "generate", "data": "pairs.jsonl", "metrics": ["exact_match", "rouge"], "max_new_tokens": 8}
    told = {"name": "say", "base": str(base), "stages": [stage], "evaluate": [judged | evaluate]}
    told |= {"cluster": {"workers": 1, "zero": 0, "precision": "fp32"}, "publish": {"registry": "registry"}}
    (folder / "recipe.yaml").write_text(json.dumps(told))
    return load_recipe(folder / "recipe.yaml")


RunOf = Callable[[Any], tuple[Recipe, list[Planned], Path]]


@pytest.fixture(scope="module")
def run_of(t5: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunOf]:
    """`run_of(adapter)`: the recipe, its one stage, trained in this process, and the run's folder."""
    made = dict[str, tuple[Recipe, list[Planned], Path]]()

    def run(adapter: Any) -> tuple[Recipe, list[Planned], Path]:
        if (key := str(adapter)) not in made:
            folder = tmp_path_factory.mktemp("say")
            recipe = recipe_of(folder, t5, adapter, limit=12, gain={"rouge1": 0.01}, shots="shots.jsonl")
            out = folder / "out"
            stages = plan_stages(recipe, out)
            check_evaluations(recipe, stages)
            (job,), _ = prepare(recipe, stages, out / "tokens")
            (out / "stages").mkdir(parents=True)
            (out / "stages" / "epoch").write_text("test")
            train_alone(job)
            made[key] = recipe, stages, out
        return made[key]

    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield run


@pytest.mark.parametrize("adapter", ["full", {"kind": "lora", "r": 8, "alpha": 32}])
def test_a_recipe_compares_its_base_with_its_result(t5: Path, tmp_path: Path, run_of: RunOf, adapter: Any) -> None:
    recipe, stages, out = run_of(adapter)
    said: list[str] = []

    (found,) = compare(recipe, stages, out, said.append)
    (again,) = compare(recipe, stages, out, said.append)

    assert found == again
    assert (found.before.records, found.after.records, found.after.prompts_cut) == (12, 12, 0)
    assert (found.few_shot.shots, found.few_shot.prompts_with_fewer, found.few_shot.records) == (1, 0, 12)
    assert "few-shot: of 2 examples there are 1 that leave room for a prompt" in said
    assert found.before.scores["exact_match"]["mean"] == 0 < found.after.scores["rouge1"]["mean"]
    (file,) = (out / "evaluations").glob("task-*.jsonl")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["wanted"] for row in rows[:4]] == [["night"], ["train"], ["dog"], ["ticket"]]

    if adapter == "full":
        check_publishable(recipe, stages)
        assert judge(recipe, (found,), stages[-1].artifact).published == "say:1"
        assert judge(recipe_of(tmp_path, t5, adapter, gain={"rouge1": 1.5}), (found,), stages[-1].artifact).why_not
    else:
        with pytest.raises(UserError, match=r"no adapters over this kind of model .*|kind: merge"):
            check_publishable(recipe, stages)
    right = [row["answer"] == row["wanted"][0] for row in rows]
    assert found.after.scores["exact_match"]["mean"] == pytest.approx(sum(right) / 12)


def test_the_report_of_a_run_is_readable_in_a_browser(run_of: RunOf, tmp_path: Path) -> None:
    recipe, stages, out = run_of("full")
    found = compare(recipe, stages, out, lambda _: None)

    write_report(make_report(recipe, out, stages, set(), 1.0, found), stages)

    parts = ["stages", "results", "curves", "answers", "lineage", "again"]
    look_at_report(out / "report.html", ["task"], parts, tmp_path / "browser")


@pytest.mark.parametrize(
    ("told", "got"),
    [
        ({"data": "notes.txt"}, "a record of kind text has no answer to compare with"),
        ({"max_new_tokens": 600}, "has 512 positions: too few for max_new_tokens 600"),
        ({"max_length": 510}, "too few for max_new_tokens 8 after prompts of max_length 510"),
        ({"data": "missing.jsonl"}, "missing.jsonl"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_before_training(tiny: Path, tmp_path: Path, told: Any, got: str) -> None:
    (tmp_path / "notes.txt").write_text("Nobody asks anything here.")
    recipe = recipe_of(tmp_path, tiny, "full", **told)

    with pytest.raises(UserError, match=got) as refused:
        check_evaluations(recipe, plan_stages(recipe, tmp_path / "out"))
    assert refused.value.line is not None


def test_the_command_tells_figures_and_writes_every_answer(tiny: Path, root: Path, tmp_path: Path) -> None:
    data = root / "recipes" / "northline" / "heldout.jsonl"
    asked = ["eval", str(tiny), "--data", str(data), "--limit", "3", "--max-new-tokens", "6", "--max-length", "16"]
    out = ["--out", str(tmp_path / "report.json")]

    done = CliRunner().invoke(app, [*asked, "--metrics", "rouge,exact_match,regex", "--pattern", "[a-z]", *out])

    told = json.loads((tmp_path / "report.json").read_text())
    assert done.exit_code == 0
    assert (told["records"], told["prompts_cut"], len(told["answers"])) == (3, 3, 3)
    assert set(told["scores"]) == {"rouge1", "rouge2", "rougeL", "exact_match", "regex"}
    assert told["scores"]["regex"]["mean"] == 1 and "Porter stemming on" in told["how"]["rouge"]


def test_an_unknown_metric_is_refused(tiny: Path) -> None:
    done = CliRunner().invoke(app, ["eval", str(tiny), "--data", "x.jsonl", "--metrics", "rogue"])

    assert "no metric 'rogue' (did you mean 'rouge'?)" in str(done.exception)
