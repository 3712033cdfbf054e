"""The page of a run: what it shows, what it hides from no one, and how large it is."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from small_house import House, lines

from fettle.evaluate.parity import Facts, Parity, Speech, Way
from fettle.pipeline.evaluated import Comparison, Evaluation, Preferred
from fettle.pipeline.gate import Check
from fettle.pipeline.graph import PlannedStage
from fettle.pipeline.page import write_report
from fettle.pipeline.report import Report, make_report
from fettle.rl.recorder import ITERATIONS, IterationRow, Recorder, summary
from fettle.train.progress import StepRow

ALWAYS = ["stages", "results", "curves", "lineage", "again"]
EVIL = "<script>alert('boo')</script><img src=x onerror=alert(1)>"


class _Page(HTMLParser):
    """What is in a page: its texts, its elements' ids, headings, and figures; of tags those that are not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.ids, self.text = list[str](), list[str](), ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.ids += [value for name, value in attrs if name == "id" and value]

    def handle_data(self, data: str) -> None:
        self.text = " ".join(f"{self.text} {data}".split())


@pytest.fixture
def report(house: House, planned: list[PlannedStage]) -> Report:
    return make_report(
        house.recipe(), house.out, planned, {"domain"}, 72.34, command="fettle run recipe.yaml --set a=1"
    )


def source(report: Report, stages: list[PlannedStage]) -> str:
    write_report(report, stages)
    return (report.out / "report.html").read_text(encoding="utf-8")


def page(report: Report, stages: list[PlannedStage]) -> _Page:
    return _Page(source(report, stages))


def answered(out: Path, model: str, answers: list[str], prompt: object = "Who?", wanted: str = "Pim") -> Evaluation:
    """An evaluation whose answers lie in the run's folder."""
    (out / "evaluations").mkdir(exist_ok=True)
    rows = [
        {"file": "/data/heldout.jsonl", "line": line, "prompt": prompt, "answer": answer, "wanted": [wanted]}
        for line, answer in enumerate(answers, start=1)
    ]
    file = out / "evaluations" / f"{model}-0.jsonl"
    file.write_text(lines(rows))
    scores = {"rouge1": {"mean": len(model) / 10, "low": 0.1, "high": 0.9, "records": len(rows)}}
    how = {"decoding": "greedy", "rouge": "Porter stemming on", "interval": "95 %, bootstrap"}
    return Evaluation(model, "heldout.jsonl", len(rows), 3, 7, 64, 1.5, scores, how, file=file.name)


def compared(report: Report, answers: list[str], **told: str) -> Report:
    sides = [answered(report.out, model, answers, **told) for model in ("base", "instruct")]
    return replace(report, evaluations=(Comparison(sides[0], sides[1]),))


def test_every_part_is_there_and_no_id_twice(report, planned):
    found = page(compared(report, ["Pim"]), planned)
    assert [one for one in found.ids if one in (*ALWAYS, "answers")] == [*ALWAYS[:3], "answers", *ALWAYS[3:]]
    assert len(set(found.ids)) == len(found.ids)


def test_without_evaluations_there_are_no_answers_and_no_goal(report, planned):
    found = page(report, planned)
    assert [one for one in found.ids if one in (*ALWAYS, "answers", "retention")] == ALWAYS
    assert "No goal set" in found.text and "held-out loss, instruct 3.50 → 2.50" in found.text


def test_stages_are_told_with_their_kind_their_time_and_what_they_were_made_from(report, planned):
    found = page(report, planned).text
    assert "base from elsewhere domain pretrain · from base cached instruct sft · from domain 2 s" in found
    assert "2 stages, 1 of them done before, in 1 min 12 s." in found
    assert "instruct sft 3 24 12 2 s 3.00 → 2.00 3.50 → 2.50" in found


def test_each_stage_has_its_curve_in_the_pages_colours(report, planned):
    text = source(report, planned)
    curves = [part.split("</svg>")[0] for part in text.split("<figcaption>")[1:]]
    assert len(curves) == 2
    for curve in curves:
        svg = ElementTree.fromstring(curve[curve.index("<svg") :] + "</svg>")  # well-formed, or it raises
        assert "3 to 1; held out 3.5 to 2.5" in svg.attrib["aria-label"]
        assert "var(--blue)" in curve and "#2f6db3" not in curve


def test_a_page_is_made_again_the_same_and_takes_the_place_of_the_earlier_one(report, planned):
    assert source(report, planned) == source(report, planned)
    assert sorted(file.name for file in report.out.glob("*") if file.is_file()) == ["report.html", "report.json"]


def test_nothing_is_loaded_from_elsewhere(report, planned):
    found = page(compared(report, ["Pim"]), planned)
    assert not {"script", "link", "img", "iframe", "object", "base"} & set(found.tags)
    text = source(report, planned)
    assert not [word for word in ("@import", "http:", "https:", "src=") if word in text]


def test_what_models_say_is_text_and_nothing_else(report, planned):
    hostile = compared(report, [EVIL], prompt=EVIL, wanted=EVIL)
    check = Check(EVIL, "rouge1", False, 0.2, 0.3)
    found = page(replace(hostile, checks=(check,), command=EVIL), planned)
    assert not {"script", "img"} & set(found.tags)
    assert found.text.count(EVIL) == 5  # prompt, wanted, before, after and the command; of a check the file's name


def test_answers_stand_side_by_side_with_what_is_wanted(report, planned):
    base, own = answered(report.out, "base", ["A bear", "A bear"]), answered(report.out, "instruct", ["Pim", "Tom"])
    found = page(replace(report, evaluations=(Comparison(base, own),)), planned).text
    assert (
        "Prompt heldout.jsonl, line 1 Who? Wanted Pim Before: base A bear After: instruct ✓ as wanted Pim "
        "Prompt heldout.jsonl, line 2 Who? Wanted Pim Before: base A bear After: instruct Tom"
    ) in found


def test_of_many_answers_a_few_are_shown_at_even_distances(report, planned):
    found = page(compared(report, [f"answer {number}" for number in range(1, 101)]), planned).text
    assert [f"line {line} " in found for line in (1, 17, 33, 49, 65, 81, 97)] == [True] * 6 + [False]
    assert "6 of 100, at even distances; all of them are in evaluations/base-0.jsonl" in found


def test_a_conversation_is_shown_with_who_says_what(report, planned):
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who?"}]
    assert "system: Be brief. user: Who?" in page(compared(report, ["Pim"], prompt=turns), planned).text


def test_a_long_answer_is_folded_and_a_book_is_cut(report, planned):
    write_report(compared(report, ["x" * 500]), planned)
    folded = (report.out / "report.html").read_text()
    assert "<summary>" + "x" * 320 + "…</summary>" in folded and "x" * 500 in folded
    assert len(source(compared(report, ["x" * 1_000_000]), planned)) < 200_000
    assert "… (1,000,000 characters in all)" in page(compared(report, ["x" * 1_000_000]), planned).text


def test_answers_that_were_taken_away_are_left_out(report, planned):
    gone = compared(report, ["Pim"])
    for file in (report.out / "evaluations").iterdir():
        file.unlink()
    assert "answers" not in page(gone, planned).ids


@pytest.mark.parametrize(("least", "told"), [(0.1, "Goal met"), (0.9, "Goal not met")])
def test_the_verdict_comes_first(report, planned, least, told):
    check = Check("heldout.jsonl", "rouge1", False, 0.5, least)
    found = page(replace(report, checks=(check,), published="northline:3" if least < 0.5 else None), planned).text
    assert found.index(told) < found.index(str(check)) < found.index("Stages")
    assert ("Published as northline:3 ." in found) == (least < 0.5)


def test_an_evaluation_is_told_before_and_after_and_after_examples(report, planned):
    sides = [answered(report.out, model, ["Pim"]) for model in ("base", "instruct")]
    shown = replace(sides[0], shots=3, scores={"rouge1": {"mean": 0.25, "low": 0.2, "high": 0.3, "records": 1}})
    found = page(replace(report, evaluations=(Comparison(*sides, few_shot=shown),)), planned).text
    assert "metric before: base base, 3 examples after: instruct" in found
    assert "rouge1 0.400 (0.100 to 0.900) 0.250 (0.200 to 0.300) 0.800 (0.100 to 0.900) prompts cut 3 3 3" in found
    assert "rouge1 on heldout.jsonl 0.400 → 0.800" in found and "no worse" not in found


def test_a_base_that_does_as_well_after_examples_is_told_beside_the_verdict(report, planned):
    sides = [answered(report.out, model, ["Pim"]) for model in ("base", "instruct")]
    shown = replace(sides[0], shots=2, scores=sides[1].scores)
    found = page(replace(report, evaluations=(Comparison(*sides, few_shot=shown),)), planned).text
    assert "base after 2 examples does no worse than instruct on heldout.jsonl: rouge1 0.800 and 0.800" in found


def test_answers_that_were_preferred_need_no_score_before(report, planned):
    sides = [
        replace(answered(report.out, model, []), kind="judge", records=9, file="") for model in ("base", "instruct")
    ]
    counts = {"won": 6, "tied": 1, "lost": 2}
    judged = Preferred(replace(sides[0], scores={}), sides[1], by="a-judge", counts=counts)
    found = page(replace(report, evaluations=(judged,)), planned).text
    assert "9 prompts, answered greedily; compared by a-judge" in found and "won 6, tied 1, lost 2." in found
    assert "rouge1 – 0.800 (0.100 to 0.900)" in found and "rouge1 on heldout.jsonl 0.800" in found


def test_what_would_be_served_is_compared_with_what_was_trained(report, planned):
    speech = Speech("abc", "def", 259)
    facts = Facts(speech, replace(speech, template="xyz"), 24, 20, 259, "LlamaForCausalLM", "float32")
    way = Way("merged on vLLM", "rounded", "float32", 0.31, 0.012, (3, 7), 0.93, 19, 0.2, 0.95)
    parity = Parity("sha256:1", "heldout.jsonl", 4210, "float32", facts, (way,), ("another template",), 12.0)
    found = page(replace(report, parity=parity), planned)
    assert found.text.index("✗ parity: merged on vLLM: log-prob") < found.text.index("Not published.")
    assert "20 of 24 prompts of heldout.jsonl become the same tokens, and 4,210 log-probabilities" in found.text
    assert "✗ merged on vLLM float32 0.31 (at most 0.2) 0.012 93.0 % (at least 95 %) 19 of 24" in found.text
    assert (
        "likely cause another template template abc trained, xyz served tokenizer def, trained and served" in found.text
    )


def test_where_it_comes_from_is_told_with_every_fingerprint(report, planned):
    found = page(report, planned).text
    assert all(f"digest {stage.artifact['digest']}" in found for stage in report.stages)
    assert all(f"{stage.fingerprint}" in found for stage in planned)
    assert (
        "Run it again What made this run; where it is done already, nothing is trained again: fettle run recipe"
        in found
    )


def test_a_stage_without_progress_or_held_out_data_is_told_all_the_same(house, planned):
    (planned[0].folder / "progress.jsonl").unlink()
    report = make_report(house.recipe(), house.out, planned, set(), 1.0)
    for stage in report.stages:
        stage.loss.update(heldout_before=None, heldout_after=None)
    text = source(report, planned)
    assert text.count("<figure>") == 2 and "none measured" in text


def test_a_stage_that_learns_from_pairs_says_so_and_what_else_was_measured(report, planned):
    measures = {"accuracy": {"before": 0.5, "after": 0.75}, "margin": {"before": None, "after": 1.0}}
    row = replace(report.stages[0], unit="pair", measures=measures)
    found = page(replace(report, stages=(row,), edges=report.edges[:1]), planned[:1]).text
    assert "Loss a pair" in found and "Held out: accuracy 0.500 → 0.750, margin – → 1.000." in found


def test_a_merge_that_is_held_to_a_budget_says_where_it_came_to_lie(report, planned):
    merged = replace(report.stages[1], interpolation={"alpha": 0.625, "forgetting": 0.0187, "budget": 0.02})
    found = page(replace(report, stages=(report.stages[0], merged)), planned).text
    assert "instruct: 0.625 of the way from the untuned weights: +0.0187 nats forgotten of 0.02 allowed." in found


def test_twenty_thousand_steps_are_no_large_page(report, planned):
    rows = [StepRow(step, 20_000, 2 + math.sin(step), 1e-3, 1.0, 8, 4, float(step), 0.0) for step in range(1, 20_001)]
    (planned[0].folder / "progress.jsonl").write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows))
    assert len(source(report, planned)) < 100_000


def test_reinforcement_learning_has_its_rewards_and_all_that_was_recorded(report, planned):
    row = IterationRow(
        iteration=0,
        version=1,
        oldest_version=1,
        seconds=2.0,
        phases={"generate": 1.5, "learn": 0.5},
        tokens=8,
        tokens_per_second=4.0,
        lengths={"mean": 4.0},
        reward=0.5,
        parts={},
        judges={},
        alike=0.0,
        repetition=0.0,
        kl={"answer": 0.1},
        entropy=1.0,
        clip_fraction=0.0,
        ratio={},
        gap={"mean": math.nan, "max": math.nan},
        probe=0.0,
        grad_norm=1.0,
        loss=0.1,
        value_loss=None,
        alarms=[],
        samples=[],
    )
    rows = [replace(row, iteration=number, reward=0.1 * number) for number in range(2000)]
    recorder = Recorder(planned[1].folder / ITERATIONS)
    for one in rows[:3]:
        recorder.write(one)
    told = summary(rows) | {"reward": {"first": 0.1, "last": 0.2, "heldout_before": 0.0, "heldout_after": 0.3}}
    stages = (report.stages[0], replace(report.stages[1], kind="rl", **told))
    found = page(replace(report, stages=stages), planned)
    assert found.tags.count("figure") == 7  # the loss of the first, and six of the second
    assert "sampler and learner – nats a token apart, at most –; generate 3000 s" in found.text
    assert "held-out reward, instruct 0.00 → 0.30" in found.text and "the rewards stand in their place" in found.text
