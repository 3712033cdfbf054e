"""Answers judged: by a reward model, by a language model behind an endpoint, and tasks of lm-evaluation-harness on our
engine, whose figures are those of lm-evaluation-harness's own `hf` model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from judge_server import JudgeServer, answers_in, judge_server
from typer.testing import CliRunner

from fettle.artifact import library_versions, new_artifact
from fettle.cli.main import app
from fettle.data.sources import open_source
from fettle.errors import FettleError, UserError
from fettle.evaluate.harness import Put, load_tasks
from fettle.models.base import digest_of, load_tokenizer
from fettle.models.heads import load_headed
from fettle.pipeline.evaluated import Comparison, Evaluation, Preferred, TaskScores
from fettle.pipeline.evaluation import check_evaluations, compare
from fettle.pipeline.gate import judge
from fettle.pipeline.graph import plan_stages
from fettle.pipeline.planned import Planned
from fettle.pipeline.report import Report, evaluation_table
from fettle.pipeline.unanswered import records_of
from fettle.recipe import Recipe, load_recipe
from fettle.recipe.data import DataSpec
from fettle.rl.rewards.model import RewardModel

pytest.importorskip("vllm")
pytest.importorskip("lm_eval")
NUM = 8
WORDS = ("night", "train", "dog", "ticket")
PAIRS = "".join(json.dumps({"prompt": f"Say {word} again.", "completion": word}) + "\n" for word in WORDS * 6)
NOWHERE = "http://127.0.0.1:9/v1"
FILES = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": "pairs.jsonl"}}, "test_split": "test"}
TASKS: dict[str, dict[str, Any]] = {
    "choice": {"output_type": "multiple_choice", "doc_to_choice": list(WORDS)},
    "say": {"output_type": "generate_until", "generation_kwargs": {"until": ["\n"], "max_gen_toks": 6}},
    "text": {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{prompt}}"},
}
PUT: dict[str, Any] = {"kind": "harness", "tasks": ["tasks"], "limit": NUM}
TASKS["say"] |= {"num_fewshot": 1, "fewshot_split": "test"}


@dataclass(frozen=True)
class Run:
    """A recipe whose one stage is done, with what `evaluate` came to."""

    recipe: Recipe
    stages: list[Planned]
    out: Path
    server: JudgeServer
    found: tuple[Comparison, ...]

    @property
    def folder(self) -> Path:
        return self.recipe.file.parent

    def with_evaluate(self, *evaluate: Any) -> Recipe:
        """The recipe with another `evaluate`."""
        told = json.loads(self.recipe.file.read_text()) | {"evaluate": evaluate}
        (self.folder / "other.yaml").write_text(json.dumps(told))
        return load_recipe(self.folder / "other.yaml")

    def answers(self, of: Comparison) -> list[list[str]]:
        """Of the other model and of the result."""
        assert isinstance(of.before, Evaluation) and isinstance(of.after, Evaluation)
        files = [self.out / "evaluations" / side.file for side in (of.before, of.after)]
        return [[json.loads(line)["answer"] for line in file.read_text().splitlines()] for file in files]


def shorter(question: str) -> str:
    """A judge that likes short answers, whichever comes first."""
    first, second = (len(answer) for answer in answers_in(question))
    return f"The shorter one.\n[[{'A' if first < second else 'B' if first > second else 'C'}]]"


@pytest.fixture(scope="module")
def run(tiny: Path, loras: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("judged")
    (folder / "tasks").mkdir()
    for place in (folder, folder / "tasks"):
        (place / "pairs.jsonl").write_text(PAIRS)
    for name, task in TASKS.items():
        whole = {"task": name, "doc_to_text": "{{prompt}}", "doc_to_target": "{{completion}}", **FILES, **task}
        (folder / "tasks" / f"{name}.yaml").write_text(json.dumps(whole))
    model: Any = load_headed(tiny, 1, torch.float32, seed=3)
    model.config.get_text_config().pad_token_id = load_tokenizer(tiny).pad_token_id
    model.save_pretrained(folder / "taste")
    load_tokenizer(tiny).save_pretrained(folder / "taste")
    stage = {"name": "task", "kind": "sft", "data": "pairs.jsonl", "adapter": {"kind": "lora", "r": 8}}
    asked: dict[str, Any] = {"data": "pairs.jsonl", "limit": NUM, "max_new_tokens": 6}
    with pytest.MonkeyPatch.context() as patched, judge_server(shorter) as server:
        patched.setenv("NO_PROXY", "127.0.0.1")
        patched.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patched.setenv("JUDGE_KEY", "sk-secret")
        scored: dict[str, Any] = {"kind": "reward", "model": "taste", **asked}
        judged = {"kind": "judge", "model": "m", "url": server.url, "key_env": "JUDGE_KEY", **asked}
        evaluate = [
            scored | {"gain": {"score": -100}},
            scored | {"temperature": 1.0, "against": str(tiny)},
            judged | {"at_least": {"win_rate": 0}},
        ]
        told = {"name": "say", "base": str(tiny), "stages": [stage], "evaluate": evaluate}
        told |= {"cluster": {"workers": 1, "zero": 0, "precision": "fp32"}}
        (folder / "recipe.yaml").write_text(json.dumps(told))
        recipe, out = load_recipe(folder / "recipe.yaml"), folder / "out"
        stages = plan_stages(recipe, out)
        assert check_evaluations(recipe, stages) == []
        base = {"path": str(tiny), "digest": digest_of(tiny)}
        told = {"kind": "adapter", "name": "task", "fingerprint": stages[0].fingerprint, "base": base}
        with new_artifact(stages[0].artifact, **told, versions=library_versions()) as place:
            for file in loras["polite"].iterdir():
                shutil.copy(file, place)
        yield Run(recipe, stages, out, server, compare(recipe, stages, out, lambda text: None))


def test_a_reward_model_scores_both_models_answers(run: Run) -> None:
    scored = run.found[0]
    asked = records_of(open_source(DataSpec(path="pairs.jsonl"), run.recipe.resolve), NUM)
    model = RewardModel(run.folder / "taste")
    before, after = (model.scores(asked, said) for said in run.answers(scored))
    same = [mine == theirs for theirs, mine in zip(*run.answers(scored), strict=True)]
    won = [0.5 if tied else mine > theirs for mine, theirs, tied in zip(after, before, same, strict=True)]

    assert isinstance(scored, Preferred) and scored.by == "taste"
    means = [side.scores["score"]["mean"] for side in (scored.before, scored.after)]
    assert means == pytest.approx([sum(before) / NUM, sum(after) / NUM], abs=1e-5)
    assert scored.after.scores["win_rate"]["mean"] == sum(won) / NUM and "win_rate" not in scored.before.scores
    assert sum(scored.counts.values()) == NUM


def test_drawn_answers_are_others_than_the_likeliest_and_the_other_model_has_a_name(run: Run) -> None:
    drawn = run.found[1]

    assert drawn.before.model == run.recipe.base and drawn.after.how["decoding"] == "temperature 1"
    assert run.answers(drawn)[0] != run.answers(run.found[0])[0]


def test_a_judge_compares_them_in_both_orders_and_its_key_is_kept_nowhere(run: Run) -> None:
    judged = run.found[2]
    pairs = zip(*run.answers(judged), strict=True)
    worth = [(len(mine) < len(theirs)) + (len(mine) == len(theirs)) / 2 for theirs, mine in pairs]

    assert isinstance(judged, Preferred) and judged.after.scores["win_rate"]["mean"] == sum(worth) / NUM
    assert (judged.counts["won"], judged.counts["inconsistent"], judged.counts["unparsed"]) == (worth.count(1), 0, 0)
    assert set(run.server.keys) == {"Bearer sk-secret"}
    assert not [file for file in run.out.rglob("*") if file.is_file() and b"sk-secret" in file.read_bytes()]


def test_tasks_come_to_what_they_come_to_with_transformers(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    recipe = run.with_evaluate(PUT | {"at_most": {"text.bits_per_byte": 99}, "gain": {"choice.acc": -1}})
    said = list[str]()
    (put,) = compare(recipe, run.stages, run.out, said.append)
    assert compare(recipe, run.stages, run.out, said.append) == (put,) and len(said) == 1
    assert [check.is_met for check in judge(recipe, (put,), run.stages[-1].artifact).checks] == [True, True]
    monkeypatch.chdir(run.folder / "tasks")
    manager = TaskManager(include_path=".", include_defaults=False)
    keys: dict[str, Any] = {"pretrained": run.recipe.base, "dtype": "float32", "device": "cpu", "batch_size": 1}
    assert isinstance(put.before, TaskScores) and isinstance(put.after, TaskScores)
    for side, more in ((put.before, {}), (put.after, {"peft": str(run.stages[-1].artifact)})):
        told = evaluate(HFLM(**keys, **more), manager.load(list(TASKS)), limit=NUM, bootstrap_iters=0)
        for name, score in side.scores.items():
            task, metric = name.split(".")
            assert score["mean"] == pytest.approx(told["results"][task][f"{metric},none"], rel=1e-4), name
            assert score["low"] <= score["mean"] <= score["high"] and score["records"] == NUM
    assert (put.after.records, put.after.requests_cut) == (3 * NUM, 0)
    assert put.after.scores["text.bits_per_byte"] != put.before.scores["text.bits_per_byte"]


def test_what_was_judged_is_not_judged_again_and_the_gate_and_the_table_know_it(run: Run) -> None:
    said, before = list[str](), len(run.server.asked)

    assert compare(run.recipe, run.stages, run.out, said.append) == run.found
    assert (said, len(run.server.asked)) == ([], before)
    verdict = judge(run.recipe, run.found, run.stages[-1].artifact)
    assert [(check.score, check.is_gain, check.is_met) for check in verdict.checks] == [
        ("score", True, True),
        ("win_rate", False, True),
    ]
    report = Report("say", run.out, 1.0, (), run.found, verdict.checks)
    assert evaluation_table(report).row_count == 3 * 2 + 2 + 2 + 1  # heads and counts, scores and win rates


@pytest.mark.parametrize(
    ("told", "got"),
    [
        ({"kind": "reward", "model": "task"}, "'task' is a stage of kind sft, which scores no answers"),
        ({"kind": "reward", "model": "taste", "against": "taste"}, "taste writes no text"),
        ({"kind": "reward", "model": "taste", "against": "task"}, "'task' is the last stage"),
        ({"kind": "judge", "model": "m", "url": NOWHERE, "key_env": "NO_KEY"}, "variable NO_KEY is not set"),
    ],
)
def test_what_cannot_be_judged_is_refused_before_training(run: Run, told: Any, got: str) -> None:
    recipe = run.with_evaluate(told if told["kind"] == "harness" else {"data": "pairs.jsonl", **told})

    with pytest.raises(UserError, match=got):
        check_evaluations(recipe, plan_stages(recipe, run.out))


def test_a_judge_that_is_away_is_told_before_training_and_an_error_after_it(run: Run) -> None:
    away = {"kind": "judge", "model": "m", "url": NOWHERE, "tries": 1}
    recipe = run.with_evaluate(away | {"data": "pairs.jsonl", "limit": NUM, "max_new_tokens": 6})

    (note,) = check_evaluations(recipe, run.stages)
    with pytest.raises(FettleError, match=r"has failed 1 times; at last: no connection") as failed:
        compare(recipe, run.stages, run.out, lambda text: None)

    assert "does not answer now (no connection" in note and failed.value.exit_code == 1


def test_templates_and_metrics_of_tasks_run_no_code(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import evaluate
    from lm_eval import utils

    monkeypatch.setattr(utils, "env", utils.env)
    monkeypatch.setattr(evaluate, "load", evaluate.load)

    def loaded(**told: Any) -> None:
        file = run.folder / "tasks" / "choice.yaml"
        other = run.folder / "other" / "choice.yaml"
        other.parent.mkdir(exist_ok=True)
        (other.parent / "pairs.jsonl").write_text(PAIRS)
        other.write_text(json.dumps(json.loads(file.read_text()) | told))
        load_tasks(Put((other,), None, None, False, False, 0))

    with pytest.raises(
        UserError, match="cannot read this task: access to attribute '__class__' of 'str' object is unsaf"
    ):
        loaded(doc_to_text="{{ ''.__class__.__mro__ }}")
    with pytest.raises(UserError, match="has no metric 'code_eval' of its own"):
        loaded(metric_list=[{"metric": "code_eval", "aggregation": "mean", "higher_is_better": True}])


def test_the_command_does_an_entry_of_a_model_that_is_there_and_keeps_what_it_worked_out(
    run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    asked = f"data: {run.folder}/pairs.jsonl, limit: {NUM}, max_new_tokens: 6"
    entry = f"{{kind: reward, model: {run.folder}/taste, {asked}}}"
    words = ["eval", str(run.stages[-1].artifact), "--entry", entry, "--out", str(run.folder / "report.json")]

    first, again = ((CliRunner().invoke(app, words).exit_code, capfd.readouterr().out) for _ in range(2))

    scored = run.found[0]
    assert isinstance(scored, Preferred)
    assert json.loads((run.folder / "report.json").read_text())["counts"] == scored.counts
    assert (first[0], again[0], "asking base" in first[1], "asking" in again[1]) == (0, 0, True, False)
    assert "win_rate" in again[1]
