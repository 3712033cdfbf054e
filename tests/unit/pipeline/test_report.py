"""What a run tells: report.json and the tables; the page has a test of its own."""

from __future__ import annotations

import io
import json
from dataclasses import asdict, replace

import pytest
from rich.console import Console
from small_house import METRICS, House

from fettle.pipeline.evaluated import Comparison, Evaluation
from fettle.pipeline.graph import PlannedStage
from fettle.pipeline.page import write_report
from fettle.pipeline.report import Report, evaluation_table, make_report, table


@pytest.fixture
def report(house: House, planned: list[PlannedStage]) -> Report:
    return make_report(house.recipe(), house.out, planned, {"domain"}, 12.34)


def test_the_report_tells_each_stages_result_and_whether_it_was_cached(report, planned):
    domain, instruct = report.stages
    assert (domain.name, domain.kind, domain.cached) == ("domain", "pretrain", True)
    assert (instruct.name, instruct.kind, instruct.cached) == ("instruct", "sft", False)
    assert {key: getattr(instruct, key) for key in METRICS} == METRICS
    assert [stage.artifact["kind"] for stage in report.stages] == ["model", "adapter"]
    assert report.artifact == planned[1].artifact


def test_report_json_is_the_report(report, planned):
    write_report(report, planned)
    told = json.loads((report.out / "report.json").read_text())
    # Rewards and the like are told of reinforcement learning alone.
    stages = [{key: value for key, value in asdict(stage).items() if value is not None} for stage in report.stages]
    edges = [["base", "domain", "from"], ["domain", "instruct", "from"]]
    assert [list(edge.values()) for edge in told.pop("edges")] == edges
    rest = {"out": str(report.out), "stages": stages, "evaluations": [], "checks": [], "goal": None}
    assert told == {key: value for key, value in (asdict(report) | rest).items() if key != "edges"}
    result = {"steps", "tokens", "artifact", "loss", "unit", "measures"}
    assert set(told["stages"][0]) == {"name", "kind", "cached", "seconds"} | result
    assert set(told["stages"][0]["loss"]) == {"first", "last", "heldout_before", "heldout_after"}
    assert told["stages"][0]["artifact"]["digest"].startswith("sha256:")


def test_the_table_has_a_row_for_each_stage(report):
    text = io.StringIO()
    Console(file=text, width=120).print(table(report))
    header, domain, instruct = text.getvalue().splitlines()
    assert header.split() == ["stage", "kind", "steps", "tokens", "time", "training", "loss", "held-out", "loss"]
    assert domain.split() == ["domain", "pretrain", "3", "24", "cached", "3.00", "→", "2.00", "3.50", "→", "2.50"]
    assert instruct.split()[4:6] == ["2", "s"]


def judged(model, rouge):
    scores = {"rouge1": {"mean": rouge, "low": rouge - 0.05, "high": rouge + 0.05, "records": 80}}
    how = {"rouge": "Porter stemming on", "interval": "95 %, bootstrap"}
    return Evaluation(model, "heldout.jsonl", 80, 3, 7, 64, 1.5, scores, how)


def test_an_evaluation_is_told_before_and_after(report, planned):
    compared = replace(report, evaluations=(Comparison(judged("base", 0.125), judged("task", 0.5)),))

    write_report(compared, planned)

    told = json.loads((report.out / "report.json").read_text())["evaluations"]
    assert (told[0]["before"]["scores"]["rouge1"]["mean"], told[0]["after"]["prompts_cut"]) == (0.125, 3)
    assert [list(column.cells) for column in evaluation_table(compared).columns] == [
        ["heldout.jsonl", "  rouge1"],
        ["base", "0.125 (0.075 to 0.175)"],
        ["task", "0.500 (0.450 to 0.550)"],
    ]
