"""What stages forget, and what the gate and the report say of it. The nats that models lose are the test's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_house import House, finish

from fettle.errors import GateFailed, UserError
from fettle.pipeline import perplexity, runner
from fettle.pipeline.evaluated import Comparison, Measurement, Retention
from fettle.pipeline.evaluation import check_evaluations, compare
from fettle.pipeline.gate import Check, judge
from fettle.pipeline.origin import Origin
from fettle.pipeline.page import write_report
from fettle.pipeline.perplexity import Losses, Probe
from fettle.pipeline.report import evaluation_table, make_report

KEPT = {"kind": "retention", "data": "general.jsonl"}
LORA = {"kind": "lora", "r": 4}
SFT = {"kind": "sft", "data": "chat.jsonl"}
Lose = Callable[..., list[str]]


@pytest.fixture
def lose(monkeypatch: pytest.MonkeyPatch) -> Lose:
    """`lose(base=2.0, …)`: how many nats a token the models will lose, by name; gives whose loss was worked out."""
    levels, asked = dict[str, float](), list[str]()

    def losses(origin: Origin, probe: Probe) -> Losses:
        name = (origin.adapter or origin.base).name
        asked.append(name if name in levels else name.rpartition("-")[0])
        tokens = np.array([int(one.loss_mask.sum()) for one in probe.examples])
        return Losses(tokens * levels[asked[-1]], tokens, 1.0)

    monkeypatch.setattr(perplexity, "losses", losses)

    def set_levels(**nats: float) -> list[str]:
        levels.update(nats)
        return asked

    return set_levels


def kept(house: House, said: list[str] | None = None) -> Retention:
    house.out.mkdir(exist_ok=True)
    (found,) = compare(house.recipe(), house.plan(), house.out, (said if said is not None else []).append)
    assert isinstance(found, Retention)
    return found


def judged(house: House, **retention: Any) -> House:
    return House(house.folder, {**house.tree, "evaluate": [KEPT | retention]})


def told(found: Retention) -> list[tuple[str, str, float, float]]:
    """Stage, what it began from, forgotten and added nats a token."""
    return [
        (row.stage, row.parent, round(row.forgetting["mean"], 6), round(row.added["mean"], 6)) for row in found.stages
    ]


def test_a_stage_has_forgotten_what_it_loses_more_than_the_base_and_added_what_its_parent_had_not(house, lose):
    asked = lose(base=2.0, domain=2.5, instruct=2.25)

    found = kept(judged(house))

    assert told(found) == [("domain", "base", 0.5, 0.5), ("instruct", "domain", 0.25, -0.25)]
    assert (found.worst, found.before.model, found.after.model, found.budget) == ("domain", "base", "instruct", None)
    assert found.after.scores["loss"]["mean"] == 2.25 and found.before.scores["forgetting"]["mean"] == 0
    assert asked == ["base", "domain", "instruct"]  # each once, whatever it is compared with


def test_what_every_record_lost_is_kept_and_not_worked_out_again(house, lose):
    asked, said = lose(base=2.0, domain=2.5, instruct=2.25), list[str]()
    first = kept(judged(house))

    assert kept(judged(house, budget=0.1), said).stages == first.stages and len(asked) == 3 and said == []
    rows = [json.loads(line) for line in next((house.out / "evaluations").glob("domain-*.jsonl")).open()]
    assert [row["line"] for row in rows] == list(range(1, 11)) and rows[0]["nats"] == 2.5 * rows[0]["tokens"]
    kept(judged(house, limit=4))
    assert len(asked) == 6  # other records


def test_stages_without_a_language_model_are_left_out_and_branches_are_compared_with_where_they_began(house, lose):
    lose(base=1.0, domain=1.5, polite=1.75, brief=1.25)
    taste = {"name": "taste", "kind": "reward", "data": "chat.jsonl", "adapter": LORA}
    stages = [house.tree["stages"][0], {"name": "polite", **SFT, "adapter": LORA}]
    stages += [{"name": "brief", **SFT, "from": "domain"}, taste]

    found = kept(judged(house.with_stages(*stages)))

    assert told(found) == [
        ("domain", "base", 0.5, 0.5),
        ("polite", "domain", 0.75, 0.25),
        ("brief", "domain", 0.25, -0.25),
    ]
    assert found.after.model == "brief"


def test_an_adapter_that_a_run_goes_on_from_is_a_parent_too(house, lose, tmp_path):
    lose(base=1.0, domain=1.5, more=1.75)
    earlier = house.with_stages(house.tree["stages"][0] | {"adapter": LORA})
    (stage,) = earlier.plan()
    finish(stage)
    file = stage.artifact / "adapter_config.json"
    later = house.with_stages({"name": "more", **SFT, "from": str(stage.artifact)}, adapter=LORA)
    assert json.loads(file.read_text())["r"] == 4

    (row,) = kept(judged(later)).stages

    assert (row.parent, row.forgetting["mean"], row.added["mean"]) == (stage.artifact.name, 0.75, 0.25)


def test_a_stage_over_another_base_is_compared_with_that_one(house, lose):
    lose(base=1.0, other=2.0, domain=1.5, small=2.25)
    shutil.copytree(house.folder / "base", house.folder / "other")
    (house.folder / "other" / "README.md").write_text("another one: the very same files would be the same model")
    house = house.with_stages(house.tree["stages"][0], {"name": "small", **SFT, "base": "other"})

    found = kept(judged(house))

    assert told(found) == [("domain", "base-base", 0.5, 0.5), ("small", "base-other", 0.25, 0.25)]
    assert (found.before.model, found.before.scores["loss"]["mean"]) == ("base-other", 2.0)


def test_without_a_language_model_there_is_nothing_to_keep(house):
    house = judged(house.with_stages({"name": "taste", "kind": "reward", "data": "chat.jsonl"}))
    with pytest.raises(UserError, match="no stage yields a language model") as caught:
        check_evaluations(house.recipe(), house.plan())
    assert (caught.value.field, caught.value.line is not None) == ("evaluate.0", True)


@pytest.mark.parametrize(("after", "is_met"), [(2.0, True), (2.0199, True), (2.0201, False)])
def test_the_budget_is_what_the_last_stage_may_have_forgotten(house, lose, after, is_met):
    lose(base=2.0, domain=3.0, instruct=after)
    house = judged(house, budget=0.02)

    verdict = judge(house.recipe(), (kept(house),), Path("result"))

    assert [check.is_met for check in verdict.checks] == [is_met]
    assert is_met or isinstance(verdict.why_not, GateFailed)


def test_a_run_that_forgets_more_than_its_budget_ends_with_exit_code_3_and_a_report(house, lose, monkeypatch):
    lose(base=2.0, domain=2.5, instruct=2.25)
    monkeypatch.setattr(runner, "train", lambda waiting, *_: [finish(stage) for stage in waiting])
    house = judged(house, budget=0.02)

    with pytest.raises(GateFailed, match=r"forgetting on general.jsonl: 0.250, at most 0.020 wanted; the result is ke"):
        runner.run(house.file, out=house.out, set={"tracking": "off"})

    (one,) = json.loads((house.out / "report.json").read_text())["evaluations"]
    assert [row["stage"] for row in one["stages"]] == ["domain", "instruct"] and one["budget"] == 0.02
    assert "✗</span><span>forgetting on general.jsonl" in (house.out / "report.html").read_text()


def test_without_a_budget_forgetting_is_only_told(house, lose):
    lose(base=2.0, domain=9.0, instruct=9.0)
    assert judge(judged(house).recipe(), (kept(judged(house)),), Path("result")).checks == ()


def test_the_report_has_a_row_for_each_stage(house, lose):
    lose(base=2.0, domain=2.5, instruct=2.25)
    house = judged(house, budget=0.02)
    stages, found = house.plan(), kept(house)
    for stage in stages:
        finish(stage)
    report = make_report(house.recipe(), house.out, stages, set(), 1.0, (found,))
    write_report(report, stages)

    page = " ".join((house.out / "report.html").read_text().split())
    assert '<tr><th scope="row">base<td class="text-col">–<td>2.000 (2.000 to 2.000)<td>–<td>– ' in page
    assert ">domain<td>2.250 (2.250 to 2.250)<td>+0.250 (+0.250 to +0.250)<td>-0.250 (-0.2" in page
    assert "domain added most. Budget of instruct: 0.02." in page
    assert [list(column.cells) for column in evaluation_table(report).columns] == [
        ["general.jsonl, kept", "  base", "  domain", "  instruct", "  most by domain"],
        ["loss", *(f"{x} ({x} to {x})" for x in ("2.000", "2.500", "2.250")), "added to base"],
        ["forgotten", "–", *(f"{x} ({x} to {x})" for x in ("+0.500", "+0.250", "+0.500"))],
    ]


def lost(model: str, loss: float) -> Measurement:
    score = {"mean": loss, "low": loss - 0.1, "high": loss + 0.1, "records": 10}
    return Measurement(model, "general.jsonl", 10, 99, 1, 0, 128, 1.0, {"loss": score}, {"loss": "", "interval": ""})


def test_a_gain_of_a_loss_is_how_much_lower_it_is(house):
    bounds = {"kind": "loss", "data": "general.jsonl", "at_most": {"loss": 2.0}, "gain": {"loss": 0.5}}
    recipe = House(house.folder, {**house.tree, "evaluate": [bounds]}).recipe()

    checks = judge(recipe, (Comparison(lost("base", 2.25), lost("instruct", 2.0)),), Path("result")).checks

    assert [(check.value, check.is_met) for check in checks] == [(2.0, True), (0.25, False)]
    assert [str(check) for check in checks] == [
        "loss on general.jsonl: 2.000, at most 2.000 wanted",
        "loss on general.jsonl: +0.250 under the base, at least +0.500 wanted",
    ]


def test_a_bound_that_is_missed_by_little_is_told_with_as_many_digits():
    check = Check("x.jsonl", "forgetting", False, 0.0204, most=0.02)
    assert not check.is_met and str(check) == "forgetting on x.jsonl: 0.020400, at most 0.020000 wanted"


def test_a_loss_that_is_no_number_meets_nothing():
    nan = float("nan")
    assert not Check("x", "loss", False, nan, most=9.0).is_met and not Check("x", "loss", True, nan, 0.0).is_met
