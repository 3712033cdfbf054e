"""`fettle runs | show | compare`, as one types them, over runs told to a real MLflow."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from small_house import House, finish
from tracked_house import begun, ended, finished, runs_of, uri_of
from typer.testing import CliRunner

from fettle.artifact import new_artifact, read_artifact
from fettle.cli.main import app
from fettle.errors import FettleError, UserError
from fettle.pipeline import tracked_runs
from fettle.pipeline.lineage import Artifacts
from fettle.registry.folder import FolderRegistry


def fettle(house: House, *words: object, **env: str) -> list[str]:
    """The lines that a command prints; raises what it raises."""
    found = CliRunner().invoke(app, [*(str(word) for word in words), "--in", str(house.folder)], env=env)
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    assert found.exit_code == 0, found.output
    return [line.rstrip() for line in found.output.splitlines()]


def columns(lines: list[str], what: str) -> list[list[str]]:
    """The rest of the lines that begin with a word, split where there are two spaces."""
    return [[cell.strip() for cell in line.split("  ") if cell.strip()][1:] for line in lines if line.startswith(what)]


@pytest.fixture
def two(tracked: House) -> House:
    """A run, and another one of the folder with another lr and other data."""
    finished(tracked)
    (tracked.folder / "chat.jsonl").write_text((tracked.folder / "chat.jsonl").read_text() * 2)
    finished(tracked, stages__instruct__lr=1e-5)
    return tracked


def test_runs_are_listed_with_how_they_ended_and_what_came_of_them_the_latest_first(two):
    ended(begun(two, seed=7)[1], "failed")
    head, last, second, first = fettle(two, "runs")
    assert head.split() == ["run", "id", "began", "state", "stages", "result", "folder"]
    ids = [run.id[:8] for run in runs_of(two)]
    assert [line.split()[1] for line in (last, second, first)] == ids
    assert "failed" in last and "instruct loss 2.500 held out" in first and "domain, instruct" in first


def test_without_a_run_the_list_says_so(tracked):
    assert fettle(tracked, "runs") == [f"no run is tracked in {tracked.folder}"]


def test_runs_read_from_the_file_are_those_that_mlflow_tells_of(two):
    told = sorted(tracked_runs._of_client(uri_of(two)), key=lambda run: -run.began)
    assert told == runs_of(two) and len(told) == 2


def test_a_run_that_was_not_told_is_mentioned_and_sync_tells_it(tracked):
    stages, _ = begun(tracked)
    for stage in stages:
        finish(stage)
    assert fettle(tracked, "runs")[-1] == "1 run has not been told wholly: fettle runs --sync"
    told, head, run = fettle(tracked, "runs", "--sync")
    assert told == f"{tracked.out}: told" and head.startswith("run ") and "interrupted" in run


def test_sync_fails_where_the_tracker_does_and_keeps_what_was_to_be_told(tracked):
    begun(tracked, tracking="http://127.0.0.1:9")
    with pytest.raises(FettleError, match="1 of 1 runs could not be told"):
        fettle(tracked, "runs", "--sync")
    assert len(list((tracked.out / "tracking").glob("*.pending"))) == 1


def test_a_server_that_does_not_answer_is_a_users_mistake(tracked):
    with pytest.raises(UserError, match=r"the tracker at http://127\.0\.0\.1:9 does not answer"):
        fettle(tracked, "runs", "--tracker", "http://127.0.0.1:9")


def test_a_file_that_is_no_database_is_a_users_mistake(tracked):
    (tracked.folder / "other").mkdir()
    (tracked.folder / "other" / "mlflow.db").write_text("no database at all, of which there is enough" * 99)
    with pytest.raises(UserError, match="not readable as MLflow's database"):
        fettle(tracked, "runs", "--tracker", tracked.folder / "other")


def test_compare_tells_what_differs_and_the_results_side_by_side(two):
    second, first = runs_of(two)
    lines = fettle(two, "compare", first.id[:8], second.id[:8])
    assert columns(lines, "recipe") == [["stages.instruct.lr", "–", "1e-05"]]
    ((what, before, after),) = columns(lines, "data")
    assert what == "instruct: chat.jsonl" and before != after and len(after) == 12
    assert ["domain.loss.last", "2", "2"] in columns(lines, "result")


def test_compare_of_a_run_with_itself_finds_nothing_different(tracked):
    finished(tracked)
    lines = fettle(tracked, "compare", "out", tracked.out)
    assert columns(lines, "recipe") == [["no setting differs"]] and columns(lines, "data") == [["the very same"]]


def test_a_run_is_found_by_name_folder_and_id_and_else_the_nearest_is_suggested(two):
    runs = runs_of(two)
    assert [tracked_runs.find_run(runs, told) for told in ("out", str(two.out), runs[1].id[:6])] == [
        *runs[:1] * 2,
        runs[1],
    ]
    with pytest.raises(UserError, match=r"no run 'oot' is tracked here \(did you mean 'out'\?\)"):
        tracked_runs.find_run(runs, "oot")


def test_show_tells_a_runs_stages_and_the_lineage_of_what_came_of_it(tracked):
    finished(tracked)
    lines = fettle(tracked, "show", "out")
    assert [stage[0].partition(":")[0] for stage in columns(lines, "stage")[:2]] == [
        "domain, pretrain",
        "instruct, sft",
    ]
    assert columns(lines, "state") == [["finished"]] and "instruct, adapter" in lines


@pytest.fixture
def line_of_three(tracked: House) -> list[Path]:
    """Artifacts as stages make them: full weights of a base, an adapter over them, and what it was merged into."""
    (domain, instruct), _ = begun(tracked)
    made: list[Path] = []
    base, recipe = "sha256:" + "b" * 64, tracked.recipe().digest()
    for name, kind, fingerprint in (
        (domain.artifact.name, "model", domain.fingerprint),
        (instruct.artifact.name, "adapter", instruct.fingerprint),
        ("final-0", "model", "f" * 64),
    ):
        digests = [read_artifact(one).digest for one in made]
        with new_artifact(
            tracked.out / "artifacts" / name,
            kind=kind,
            name=name.partition("-")[0],
            fingerprint=fingerprint,
            base={"path": str(made[0]), "digest": digests[0]} if kind == "adapter" else None,
            parents=tuple(digests) or (base,),
            recipe=recipe,
            data={"chat.jsonl": "c" * 64} if kind == "adapter" else {},
            seed=3,
            versions={"fettle": "0.1.0", "torch": "2.13.0"},
            metrics={"loss": {"first": 3.0, "last": 2.0}, "measures": {"accuracy": {"before": 0.25, "after": 0.75}}},
            licences=("Apache-2.0",),
        ) as folder:
            (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4}))
            (folder / "adapter_model.safetensors").write_text(name)
        made.append(tracked.out / "artifacts" / name)
    return made


def test_an_artifacts_lineage_is_followed_to_the_base(tracked, line_of_three):
    found = Artifacts([tracked.folder]).descent(line_of_three[-1])
    assert [one.artifact.name for one in found] == ["final", "domain", "instruct"]
    assert [parent for parent, _ in found[0].parents] == ["domain, model", "instruct, adapter"]
    assert [parent for parent, _ in found[1].parents] == [f"base {tracked.folder / 'base'}"]


def test_show_of_an_artifact_tells_data_base_recipe_seed_versions_measures_and_licences(tracked, line_of_three):
    lines = fettle(tracked, "show", line_of_three[1])
    first = lines[: lines.index("", 1)]
    assert first[:2] == ["", "instruct, adapter"]
    assert columns(first, "data")[0] == [f"chat.jsonl (training, {'c' * 64})"]
    assert columns(first, "data")[1][0].startswith("general.jsonl (replay, ")
    assert columns(first, "recipe") == [[f"northline, {tracked.folder}/recipe.yaml ({tracked.recipe().digest()[:12]})"]]
    assert columns(first, "made from")[0][0].startswith("domain, model (sha256:")
    assert [columns(first, what)[0][0] for what in ("seed", "made with", "loss", "accuracy", "licences")] == [
        "3",
        "fettle 0.1.0, torch 2.13.0",
        "3 → 2 nats a token",
        "0.25 → 0.75",
        "Apache-2.0",
    ]


def test_an_evaluation_in_the_runs_report_is_told_of_what_it_judged(tracked, line_of_three):
    score = {"mean": 0.5, "low": 0.4, "high": 0.6, "records": 80}
    compared = {
        "before": {"scores": {"rouge1": score | {"mean": 0.1}}},
        "after": {"data": "h.jsonl", "scores": {"rouge1": score}},
    }
    stage = {"artifact": {"digest": read_artifact(line_of_three[-1]).digest}}
    (tracked.out / "report.json").write_text(json.dumps({"stages": [stage], "evaluations": [compared]}))
    lines = fettle(tracked, "show", line_of_three[-1])
    assert columns(lines, "evaluated") == [["h.jsonl: rouge1 0.500 (0.400 to 0.600), 0.100 before"]]


def test_a_published_version_is_shown_with_its_aliases_and_what_the_runs_tell_of_its_original(tracked, line_of_three):
    registry = FolderRegistry(tracked.folder / "registry")
    registry.publish("support", line_of_three[1])
    for told in ("support@candidate", "support:1"):
        lines = fettle(tracked, "show", told, FETTLE_REGISTRY=str(registry.root))
        assert columns(lines, "version") == [["support:1, support@candidate"]]
        assert "domain, model" in lines and columns(lines, "recipe")[0][0].startswith("northline, ")
    with pytest.raises(UserError, match="has no alias 'production'"):
        fettle(tracked, "show", "support", FETTLE_REGISTRY=str(registry.root))


def test_a_model_card_is_written_of_what_is_shown(tracked, line_of_three):
    card = tracked.folder / "card.md"
    fettle(tracked, "show", line_of_three[1], "--card", card)
    text = card.read_text()
    assert yaml.safe_load(text.split("---")[1]) == {
        "library_name": "peft",
        "license": "apache-2.0",
        "base_model": str(line_of_three[0]),
    }
    assert "# instruct\n" in text and "| seed | 3 |" in text and "## Made from: domain, model" in text
    with pytest.raises(UserError, match="its folder is not there"):
        fettle(tracked, "show", line_of_three[1], "--card", tracked.folder / "none" / "card.md")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["show", "support@candidate"], "support@candidate is of a registry"),
        (["show", "nothing"], "no run 'nothing' is tracked here"),
        (["compare", "one", "other"], "no run 'one' is tracked here"),
    ],
)
def test_what_is_not_there_is_a_users_mistake(tracked, words, told):
    with pytest.raises(UserError, match=told):
        fettle(tracked, *words)


def test_results_are_the_first_evaluations_score_else_the_last_reward_or_loss():
    def run(**metrics: float) -> str:
        named = {name.replace("__", "."): value for name, value in metrics.items()}
        tags = {"fettle.stages": '["task", "align"]'}
        return tracked_runs.TrackedRun("1", "x", "x", 0.0, None, tags, {}, named).result

    assert run(evaluate__0__after__rouge1=0.5, evaluate__1__after__rouge1=0.25, task__loss__last=1.0) == "rouge1 0.500"
    assert run(task__loss__last=1.0, align__reward__last=2.0, align__loss__last=3.0) == "align reward 2.000"
    assert run(task__loss__last=1.0) == "task loss 1.000" and run() == "–"
