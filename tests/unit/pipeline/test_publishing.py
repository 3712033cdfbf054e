"""What a run's result has to reach, and where it goes when it does. Training and scores are the test's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_house import House, chat, finish, lines

from fettle.errors import FettleError, GateFailed, UserError
from fettle.pipeline import gate, runner
from fettle.pipeline.evaluated import Comparison, Evaluation
from fettle.pipeline.report import Report
from fettle.registry.folder import FolderRegistry

Score = Callable[[float, float], None]


@pytest.fixture
def score(monkeypatch: pytest.MonkeyPatch) -> Score:
    """`score(before, after)`: what ROUGE-1 of the base and of the result will be, of stages that train nothing."""
    pair = [0.1, 0.5]

    def judged(model: str, mean: float) -> Evaluation:
        return Evaluation(model, "asked.jsonl", 8, 0, 0, 16, 1.0, {"rouge1": dict(_interval(mean))}, dict(_HOW))

    def compare(*_: object) -> tuple[Comparison, ...]:
        return (Comparison(judged("base", pair[0]), judged("instruct", pair[1])),)

    monkeypatch.setattr(runner, "train", lambda waiting, *_: [finish(stage) for stage in waiting])
    monkeypatch.setattr(runner, "compare", compare)
    monkeypatch.setattr(runner, "parity_of_run", lambda *_: None)  # an engine would start
    # The registry is a real one; whether vLLM could apply these few numbers is not asked.
    monkeypatch.setattr(
        gate,
        "publish",
        lambda folder, *, registry, name, alias: FolderRegistry(registry).publish(name, folder, alias=alias),
    )

    def make(before: float, after: float) -> None:
        pair[:] = before, after

    return make


_HOW = {"rouge": "stemmed", "interval": "95 %"}


def _interval(mean: float) -> dict[str, float]:
    return {"mean": mean, "low": mean, "high": mean, "records": 8}


def gated(house: House, **more: Any) -> House:
    """The house with a gate before a registry; the last stage yields a LoRA adapter."""
    (house.folder / "asked.jsonl").write_text(lines([chat(number) for number in range(8)]))
    asked = {"kind": "generate", "data": "asked.jsonl", "max_new_tokens": 16, "at_least": {"rouge1": 0.4}}
    publish = {"registry": "registry", **more.pop("publish", {})}
    top = {"evaluate": [asked | {"gain": {"rouge1": 0.2}}], "publish": publish, "adapter": {"kind": "lora", "r": 4}}
    return House(house.folder, {**house.tree, **top, **more})


def run(house: House, **how: Any) -> Report:
    return runner.run(house.file, out=house.out, **how)


def test_a_result_that_is_good_enough_is_published(house, score, monkeypatch, capfd):
    monkeypatch.chdir(house.folder)
    report = run(gated(house))
    registry = FolderRegistry(house.folder / "registry")
    assert report.published == "northline:1" and registry.aliases("northline") == {"candidate": 1}
    assert registry.versions("northline")[0].digest == report.stages[-1].artifact["digest"]
    shown = capfd.readouterr().out
    assert "met       rouge1 on asked.jsonl: 0.500, at least 0.400 wanted\n" in shown
    assert "met       rouge1 on asked.jsonl: +0.400 over the base, at least +0.200 wanted\n" in shown
    assert "published northline:1 is northline@candidate; into production: fettle promote northline@candidate" in shown


def test_the_same_run_again_publishes_nothing_new(house, score):
    first, second = run(gated(house)), run(gated(house))
    assert first.published == second.published == "northline:1"
    assert len(FolderRegistry(house.folder / "registry").versions("northline")) == 1


@pytest.mark.parametrize(
    ("before", "after", "why"),
    [
        (0.1, 0.39, "rouge1 on asked.jsonl: 0.390, at least 0.400 wanted; nothing is published"),
        (0.4, 0.45, "rouge1 on asked.jsonl: +0.050 over the base, at least +0.200 wanted; nothing is published"),
    ],
)
def test_a_result_that_is_not_is_kept_and_not_published(house, score, before, after, why):
    score(before, after)
    with pytest.raises(GateFailed) as caught:
        run(gated(house))

    assert caught.value.exit_code == 3 and why in str(caught.value)
    told = json.loads((house.out / "report.json").read_text())
    assert told["published"] is None and [check["is_met"] for check in told["checks"]].count(False) == 1
    assert Path(told["stages"][-1]["artifact"]["path"]).is_dir() and not (house.folder / "registry").exists()
    assert "✗</span><span>rouge1 on asked.jsonl" in (house.out / "report.html").read_text()

    score(0.1, 0.9)
    assert run(gated(house)).published == "northline:1"


def test_a_gate_without_a_registry_still_shuts(house, score):
    score(0.1, 0.2)
    house = gated(house)
    with pytest.raises(GateFailed, match="the result is kept in"):
        run(House(house.folder, {key: value for key, value in house.tree.items() if key != "publish"}))


def test_a_run_up_to_an_earlier_stage_is_neither_gated_nor_published(house, score):
    score(0.1, 0.2)
    report = run(gated(house), until="domain")
    assert (report.checks, report.published) == ((), None) and not (house.folder / "registry").exists()


def test_a_registry_that_cannot_be_written_keeps_the_report(house, score, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gate, "publish", full)
    with pytest.raises(FettleError, match="could not be published .*No space left"):
        run(gated(house))
    assert json.loads((house.out / "report.json").read_text())["published"] is None


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"adapter": {"kind": "dora", "r": 4}}, "no adapters of kind dora from a registry"),
        ({"publish": {"registry": "corpus.txt"}}, "corpus.txt is not a folder"),
        ({"publish": {"name": "taken"}}, "'taken' is a published model"),
        ({"publish": {"alias": "Not one"}}, "publish.alias"),
    ],
)
def test_what_no_endpoint_would_take_is_told_before_anything_is_trained(house, score, more, why):
    (house.folder / "full").mkdir()
    (house.folder / "full" / "config.json").write_text("{}")
    (house.folder / "full" / "model.safetensors").write_bytes(b"w")
    FolderRegistry(house.folder / "registry").publish("taken", house.folder / "full")
    with pytest.raises(UserError) as caught:
        run(gated(house, **more))
    assert why in str(caught.value) and not house.out.exists()


def test_a_bound_on_what_is_not_measured_is_told(house):
    house = gated(house)
    (asked,) = house.tree["evaluate"]
    with pytest.raises(UserError) as caught:
        run(House(house.folder, {**house.tree, "evaluate": [asked | {"at_least": {"exact_match": 1.0}}]}))
    assert "no score 'exact_match' is measured here; there is rouge1, rouge2, rougeL" in str(caught.value)


def test_a_stage_begins_from_what_a_registry_has(house, score):
    run(gated(house))
    registry = FolderRegistry(house.folder / "registry")
    more = {"name": "more", "kind": "sft", "data": "chat.jsonl", "from": "northline@candidate"}
    later = house.with_stages(more, publish={"registry": "registry"}, adapter={"kind": "lora", "r": 4})

    (stage,) = later.plan()
    assert stage.origin.adapter == registry.versions("northline")[0].folder
    (same,) = later.with_stages(more | {"from": "northline:1"}, publish={"registry": "registry"}).plan(
        adapter={"kind": "lora", "r": 4}
    )
    assert same.fingerprint == stage.fingerprint


@pytest.mark.parametrize(
    ("name", "publish", "why"),
    [
        ("northline@candidate", None, "names a published version, and the recipe names no registry"),
        ("northline@candidate", {"registry": "registry"}, "nothing called 'northline' is published"),
        ("northlin", {"registry": "registry"}, "neither an earlier stage nor a folder"),
    ],
)
def test_what_a_registry_does_not_have_is_told_with_its_line(house, name, publish, why):
    stage = {"name": "more", "kind": "sft", "data": "chat.jsonl", "from": name}
    with pytest.raises(UserError) as caught:
        house.with_stages(stage, **({"publish": publish} if publish else {})).plan()
    assert why in str(caught.value) and caught.value.field == "stages.more.from" and caught.value.line is not None
