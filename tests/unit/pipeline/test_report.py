"""What a run tells: report.json, report.html and the table."""

from __future__ import annotations

import io
import json
from dataclasses import asdict, replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.console import Console
from small_house import METRICS, House, finish

from fettle.pipeline.evaluation import Comparison, Evaluation
from fettle.pipeline.graph import PlannedStage
from fettle.pipeline.report import Report, evaluation_table, make_report, table, write_report


@pytest.fixture
def planned(house: House) -> list[PlannedStage]:
    """Two stages that are done; the second goes on from an adapter."""
    stages = house.plan(adapter={"kind": "lora", "r": 4}, stages__domain__adapter="full")
    house.out.mkdir()
    for stage in stages:
        finish(stage)
    return stages


@pytest.fixture
def report(house: House, planned: list[PlannedStage]) -> Report:
    return make_report(house.recipe(), house.out, planned, {"domain"}, 12.34)


def page(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


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
    assert told == asdict(report) | {"out": str(report.out), "stages": stages, "evaluations": [], "checks": []}
    result = {"steps", "tokens", "artifact", "loss", "unit", "measures"}
    assert set(told["stages"][0]) == {"name", "kind", "cached", "seconds"} | result
    assert set(told["stages"][0]["loss"]) == {"first", "last", "heldout_before", "heldout_after"}
    assert told["stages"][0]["artifact"]["digest"].startswith("sha256:")


def test_report_html_draws_a_curve_for_each_stage(report, planned):
    write_report(report, planned)
    text = page(report.out)
    assert text.count("<svg") == text.count("</svg>") == 2
    for part in text.split("<svg")[1:]:
        ElementTree.fromstring("<svg" + part.split("</svg>")[0] + "</svg>")  # well-formed, or it raises


def test_report_html_names_every_stage_and_its_losses(report, planned):
    write_report(report, planned)
    text = page(report.out)
    assert all(f"<h2>{name} " in text for name in ("domain", "instruct"))
    assert "3.00 → 2.00" in text and "3.50 → 2.50" in text and "<title>northline · fettle</title>" in text


def test_report_html_loads_nothing_from_elsewhere(report, planned):
    write_report(report, planned)
    text = page(report.out)
    assert "<script" not in text and " src=" not in text and "@import" not in text


def test_a_curve_is_drawn_again_the_same(report, planned):
    write_report(report, planned)
    before = page(report.out)
    write_report(report, planned)
    assert len(page(report.out)) == len(before)


def test_a_stage_without_progress_or_held_out_data_is_reported_all_the_same(house, planned):
    (planned[0].folder / "progress.jsonl").unlink()
    report = make_report(house.recipe(), house.out, planned, set(), 1.0)
    for stage in report.stages:
        stage.loss.update(heldout_before=None, heldout_after=None)
    write_report(report, planned)
    assert page(report.out).count("<svg") == 2 and "–" in page(report.out)


def test_a_report_replaces_the_earlier_one_whole(report, planned):
    write_report(report, planned)
    write_report(report, planned)
    assert sorted(file.name for file in report.out.glob("*") if file.is_file()) == ["report.html", "report.json"]


def test_the_table_has_a_row_for_each_stage(report):
    text = io.StringIO()
    Console(file=text, width=120).print(table(report))
    header, domain, instruct = text.getvalue().splitlines()
    assert header.split() == ["stage", "kind", "steps", "tokens", "time", "training", "loss", "held-out", "loss"]
    assert domain.split() == ["domain", "pretrain", "3", "24", "cached", "3.00", "→", "2.00", "3.50", "→", "2.50"]
    assert instruct.split()[4:6] == ["2", "s"]


def test_a_stage_that_learns_from_pairs_says_so_and_what_else_was_measured(report, planned):
    row = replace(report.stages[0], unit="pair", measures={"accuracy": {"before": 0.5, "after": 0.75}})
    write_report(replace(report, stages=(row,)), planned[:1])
    assert "accuracy 0.500 → 0.750" in " ".join(page(report.out).split())


def judged(model, rouge):
    scores = {"rouge1": {"mean": rouge, "low": rouge - 0.05, "high": rouge + 0.05, "records": 80}}
    how = {"rouge": "Porter stemming on", "interval": "95 %, bootstrap"}
    return Evaluation(model, "heldout.jsonl", 80, 3, 7, 64, 1.5, scores, how)


def test_an_evaluation_is_told_before_and_after(report, planned):
    compared = replace(report, evaluations=(Comparison(judged("base", 0.125), judged("task", 0.5)),))

    write_report(compared, planned)

    told = json.loads((report.out / "report.json").read_text())["evaluations"]
    assert (told[0]["before"]["scores"]["rouge1"]["mean"], told[0]["after"]["prompts_cut"]) == (0.125, 3)
    assert "<td>rouge1<td><td>0.125 (0.075 to 0.175)<td>0.500 (0.450 to 0.550)" in page(report.out)
    assert [list(column.cells) for column in evaluation_table(compared).columns] == [
        ["heldout.jsonl", "  rouge1"],
        ["base", "0.125 (0.075 to 0.175)"],
        ["task", "0.500 (0.450 to 0.550)"],
    ]
