"""What is told of a run, once, whatever happens between the run and its tracker."""

from __future__ import annotations

import math

import pytest
from small_house import finish
from tracked_house import begun, curve_of, ended, finished, pending, runs_of, stage_runs, uri_of

from fettle.pipeline import tracking
from fettle.pipeline.recorded import EMBEDDED, FOLDER, read_record
from fettle.pipeline.telling import Teller
from fettle.pipeline.tracker import Tracker
from fettle.rl.recorder import ITERATIONS, IterationRow, Recorder
from fettle.train.progress import ProgressWriter


def test_a_run_is_told_with_its_settings_its_results_and_small_files(tracked):
    finished(tracked)

    (run,) = runs_of(tracked)
    assert (run.name, run.experiment, run.state, run.stages) == ("out", "northline", "finished", ["domain", "instruct"])
    assert run.settings["stages.instruct.adapter.r"] == "4" and run.settings["base"] == "base"
    assert run.metrics["instruct.loss.heldout_after"] == 2.5 and run.result == "instruct loss 2.500 held out"
    assert run.out == tracked.out and pending(tracked) == []
    told = {file.path for file in Tracker(uri_of(tracked)).client.list_artifacts(run.id)}
    assert told == {"recipe.yaml"}  # and the report, of a run that has one


def test_each_stage_is_a_run_within_it_with_its_curve_its_data_and_its_artifact(tracked):
    finished(tracked)

    stages, (parent,) = stage_runs(tracked), runs_of(tracked)
    instruct = stages["instruct"]
    assert list(stages) == ["domain", "instruct"] and instruct.data.tags["mlflow.parentRunId"] == parent.id
    assert curve_of(tracked, instruct, "loss") == [(1, 3.0), (2, 2.0), (3, 1.0)]
    assert curve_of(tracked, instruct, "tokens") == [(1, 8.0), (2, 8.0), (3, 8.0)]
    planned = tracked.plan()[1]
    assert instruct.data.tags["fettle.fingerprint"] == planned.fingerprint
    assert instruct.data.tags["fettle.artifact"] == str(planned.artifact)
    assert (instruct.data.params["adapter.r"], instruct.data.params["max_length"]) == ("4", "128")
    inputs = {(one.dataset.name, one.tags[0].value, one.dataset.digest) for one in instruct.inputs.dataset_inputs}
    uses = [("training", planned.sources[0]), ("replay", planned.sources[1])]
    assert inputs == {(source.opened.spec.path, use, source.digest[:36]) for use, source in uses}
    assert instruct.info.status == "FINISHED" and "artifact.json" in {
        file.path for file in Tracker(uri_of(tracked)).client.list_artifacts(instruct.info.run_id)
    }


def test_no_weights_are_copied_into_the_tracker(tracked):
    finished(tracked)
    assert [file for file in (tracked.folder / EMBEDDED).rglob("*") if file.suffix == ".safetensors"] == []


def test_a_run_goes_on_in_the_same_run_of_the_tracker_and_no_step_is_told_twice(tracked):
    (domain, instruct), record = begun(tracked)
    finish(domain)
    writer = ProgressWriter(instruct.folder / "progress.jsonl")
    step = {"steps": 3, "lr": 1e-3, "grad_norm": 1.0, "tokens": 8, "loss_tokens": 4}
    for number in (1, 2):
        writer.write(step=number, loss=4.0 - number, **step)
    assert ended(record, "interrupted") == ""
    (run,) = runs_of(tracked)
    assert run.state == "interrupted" and stage_runs(tracked)["instruct"].info.status == "KILLED"

    _, record = begun(tracked)
    finish(instruct)  # from a checkpoint after step 0: the steps 1 and 2 are written again, at another time
    assert ended(record) == ""

    (again,) = runs_of(tracked)
    assert (again.id, again.state) == (run.id, "finished")
    stages = stage_runs(tracked)
    assert list(stages) == ["domain", "instruct"] and stages["instruct"].info.status == "FINISHED"
    assert curve_of(tracked, stages["instruct"], "loss") == [(1, 3.0), (2, 2.0), (3, 1.0)]


def test_another_recipe_in_the_folder_is_a_run_of_its_own_and_a_cached_stage_is_not_told_twice(tracked):
    finished(tracked)
    finished(tracked, stages__instruct__lr=1e-5)

    second, first = runs_of(tracked)
    assert first.id != second.id and second.metrics["domain.loss.last"] == 2.0
    assert list(stage_runs(tracked)) == ["domain", "instruct", "instruct 2"]


def test_a_run_of_which_all_was_told_starts_no_process(tracked):
    finished(tracked)
    stages = tracked.plan()
    assert tracking._begin(tracked.recipe(), stages, tracked.out) is None


def test_what_a_stage_has_done_so_far_is_told_while_it_runs(tracked):
    (domain, _), record = begun(tracked)
    teller = Teller(record)
    teller.tell(is_over=False)
    (run,) = runs_of(tracked)
    assert stage_runs(tracked) == {} and run.tags["fettle.state"] == "running"

    writer = ProgressWriter(domain.folder / "progress.jsonl")
    step = {"steps": 3, "lr": 1e-3, "grad_norm": 1.0, "tokens": 8, "loss_tokens": 4}
    for number in (1, 2):
        writer.write(step=number, loss=4.0 - number, **step)
        teller.tell(is_over=False)
        assert len(curve_of(tracked, stage_runs(tracked)["domain"], "loss")) == number


def test_of_reinforcement_learning_every_iteration_is_told(tracked):
    (domain, instruct), record = begun(tracked)
    finish(domain), finish(instruct)
    recorder = Recorder(instruct.folder / ITERATIONS)
    for number in range(2):
        kl = {"token": 0.5, "answer": math.nan, "coef": 0.1}
        gap, lengths = {"mean": 0.0, "max": 0.0}, {"mean": 9.0}
        recorder.write(
            IterationRow(
                *(
                    number,
                    number,
                    number,
                    2.0,
                    {"learn": 1.0},
                    8,
                    4.0,
                    lengths,
                    0.25 + number,
                    {"rules.py:right": 1.0},
                    {},
                ),
                *(0.0, 0.0, kl, 1.0, 0.0, {"max": 1.0}, gap, 0.0, 1.0, 0.5, None, [], []),
            )
        )
    assert ended(record) == ""

    run = stage_runs(tracked)["instruct"]
    assert curve_of(tracked, run, "iteration.reward") == [(0, 0.25), (1, 1.25)]
    assert curve_of(tracked, run, "iteration.parts.rules.py_right") == [(0, 1.0), (1, 1.0)]
    assert curve_of(tracked, run, "iteration.kl.answer") == []  # what could not be worked out


def test_the_key_changes_no_fingerprint_and_no_digest(tracked):
    assert tracked.fingerprints(tracking="off") == tracked.fingerprints(tracking={"uri": "https://tracker.example"})
    assert tracked.recipe(tracking="off").digest() == tracked.recipe(tracking={"experiment": "other"}).digest()


def test_a_run_that_is_not_tracked_is_written_down_and_told_to_nobody(tracked):
    tracked.out.mkdir()
    recipe = tracked.recipe(tracking="off")
    with tracking.tracked(recipe, tracked.plan(), tracked.out, pytest.fail):
        pass
    told = read_record(tracked.out / FOLDER / f"{recipe.digest()[:12]}.json")
    assert told["state"] == "finished" and told["settings"]["stages"][1]["name"] == "instruct"
    assert pending(tracked) == [] and runs_of(tracked) == [] and not (tracked.out / "logs").exists()


def test_what_was_to_be_told_is_left_alone_by_a_run_that_is_not_tracked_and_told_by_one_that_is(tracked):
    begun(tracked)
    assert tracking._begin(tracked.recipe(tracking="off"), tracked.plan(), tracked.out) is None
    assert len(pending(tracked)) == 1

    for stage in tracked.plan():
        finish(stage)
    (tracked.out / FOLDER / pending(tracked)[0]).unlink()
    record = tracking._begin(tracked.recipe(tracking="off"), tracked.plan(), tracked.out)
    tracking._note(record, state="finished")
    _, record = begun(tracked)  # it was finished, and nobody was told
    assert ended(record) == "" and len(runs_of(tracked)) == 1
