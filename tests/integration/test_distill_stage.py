"""Distillation: the same losses and the same answers however the work is split. Two-process gloo, no Ray."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fettle.artifact import read_artifact
from fettle.data.encode import encode
from fettle.data.formats import read_file
from fettle.data.sources import open_source
from fettle.data.tokens import write_tokens
from fettle.errors import UserError
from fettle.models.base import BUNDLED, load_tokenizer
from fettle.pipeline.prepare import end_ids
from fettle.recipe import SftStage
from fettle.recipe.adapter import FULL, AdapterSpec
from fettle.recipe.data import DataSpec
from fettle.recipe.distill import DistillStage
from fettle.recipe.stages import BatchSpec
from fettle.train.generate import Generator
from fettle.train.job import StageJob, Teacher
from gloo import again, cut_off, losses, stage_job, train_alone, train_together, work

pytestmark = pytest.mark.timeout(300)  # the first test of a kind waits for all of that kind to be trained
TOLERANCE = 2e-5  # float32, sums in another order
LORA = AdapterSpec(kind="lora", r=4, alpha=8)
MakeJob = Callable[..., StageJob]


@pytest.fixture(scope="module")
def folder(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tokens/ of some of Northline's conversations, and prompts.jsonl with the same."""
    folder = tmp_path_factory.mktemp("distill")
    chats = root / "recipes" / "northline" / "chat.jsonl"
    (folder / "prompts.jsonl").write_text("".join(chats.read_text().splitlines(keepends=True)[:60]))
    records = list(read_file(chats)[1])[:300]
    write_tokens(folder / "tokens", encode(records, load_tokenizer(BUNDLED["tiny"]), max_length=128))
    (folder / "epoch").write_text("test")
    return folder


@pytest.fixture(scope="module")
def teachers(folder: Path) -> dict[str, Teacher]:
    """Two that have learned some of the house's answers: `full`, and `lora`, an adapter."""
    found = {}
    for name, adapter, steps in (("full", FULL, 30), ("lora", LORA, 10)):
        batch = BatchSpec(sequences=16)
        spec = SftStage(name=f"teacher-{name}", kind="sft", data="chat.jsonl", max_steps=steps, lr=4e-3, batch=batch)
        made = train_alone(stage_job(spec, folder, adapter=adapter)).artifact
        is_full = adapter is FULL
        found[name] = Teacher(base=made if is_full else BUNDLED["tiny"], adapter=None if is_full else made)
    return found


@pytest.fixture(scope="module")
def make_job(folder: Path, teachers: dict[str, Teacher]) -> MakeJob:
    """`make_job(name, loss=…, teacher="full", …)`: a stage of the tiny model that learns from a teacher."""

    def make(
        name: str,
        *,
        teacher: str = "full",
        packing: bool = True,
        accumulate: int = 1,
        adapter: AdapterSpec = FULL,
        **keys: Any,
    ) -> StageJob:
        told = {"name": name, "kind": "distill", "data": "prompts.jsonl", "teacher": "t", "checkpoint": {"every": 2}}
        told |= {"max_steps": 4, "lr": 1e-3, "batch": {"sequences": 8, "accumulate": accumulate}, "packing": packing}
        return stage_job(DistillStage.model_validate(told | keys), folder, adapter=adapter, teacher=teachers[teacher])

    return make


@pytest.fixture(scope="module")
def make_answered(make_job: MakeJob, teachers: dict[str, Teacher], folder: Path) -> MakeJob:
    """`make_answered(name, …)`: a stage that learns the teacher's answers to the prompts."""
    stops = end_ids(load_tokenizer(BUNDLED["tiny"]))

    def make(name: str, **keys: Any) -> StageJob:
        job = make_job(name, **({"loss": "answers", "max_new_tokens": 48} | keys))
        prompts = open_source(DataSpec(path="prompts.jsonl"), lambda path: folder / path)
        asked = {"answers": folder / f"{name}-answers", "prompts": (prompts,), "end_ids": stops}
        return dataclasses.replace(job, tokens=(), teacher=dataclasses.replace(teachers["full"], **asked))

    return make


@pytest.fixture(scope="module")
def alone(make_job: MakeJob) -> dict[str, StageJob]:
    """One worker: each loss, and what differs in packing, accumulation, adapters."""
    jobs = {
        "forward": make_job("forward"),
        "padded and accumulated": make_job("padded", packing=False, accumulate=4),
        "reverse": make_job("reverse", loss="reverse_kl", temperature=2.0),
        "lora": make_job("lora", adapter=LORA),
        "prompt": make_job("prompt", adapter=AdapterSpec(kind="prompt", tokens=4)),
        "lora teacher": make_job("lora-teacher", teacher="lora", alpha=1.0),
    }
    for job in jobs.values():
        train_alone(job)
    return jobs


def work_in_parts(rank: int, meeting: str, cases: list[tuple[StageJob, int]]) -> None:
    """As `work`, with the logits of 100 tokens at a time."""
    from fettle.train import logprobs

    logprobs.MOST_LOGITS = 100 * 6 * 1024
    work(rank, meeting, cases)


@pytest.fixture(scope="module")
def together(make_job: MakeJob, make_answered: MakeJob) -> dict[str, StageJob]:
    """Two workers, at each ZeRO stage, with logits in parts."""
    jobs = {
        "reverse zero-0": (make_job("two-reverse", loss="reverse_kl", temperature=2.0), 0),
        # 8 examples over 2 × 8 micro-batches: some are empty.
        "forward zero-2 accumulated": (make_job("two-zero-2", accumulate=8), 2),
        "forward zero-3": (make_job("two-zero-3"), 3),
        "lora zero-3": (make_job("two-lora-zero-3", adapter=LORA), 3),
        "greedy": (make_answered("two-greedy"), 2),
        "drawn": (make_answered("two-drawn", temperature=0.8), 0),
    }
    train_together(list(jobs.values()), work_in_parts)
    return {name: job for name, (job, _) in jobs.items()}


def test_packing_and_accumulation_leave_the_losses_alone(alone: dict[str, StageJob]) -> None:
    assert losses(alone["padded and accumulated"]) == pytest.approx(losses(alone["forward"]), abs=TOLERANCE)


@pytest.mark.parametrize(
    "case",
    [
        "reverse zero-0",
        "forward zero-2 accumulated",
        "forward zero-3",
        "lora zero-3",
    ],
)
def test_two_workers_have_the_losses_of_one(
    alone: dict[str, StageJob], together: dict[str, StageJob], case: str
) -> None:
    assert losses(together[case]) == pytest.approx(losses(alone[case.partition(" ")[0]]), abs=TOLERANCE)


@pytest.mark.parametrize("case", ["forward", "reverse", "lora", "prompt", "lora teacher"])
def test_the_student_comes_nearer_to_its_teacher(alone: dict[str, StageJob], case: str) -> None:
    kl = read_artifact(alone[case].artifact).metrics["measures"]["kl"]

    assert kl["after"] < kl["before"]


@pytest.mark.parametrize("case", ["forward", "lora"])
def test_an_interrupted_stage_goes_on_with_the_very_same_losses(alone: dict[str, StageJob], case: str) -> None:
    assert losses(cut_off(alone[case], 2)) == losses(alone[case])


def test_a_student_that_is_its_teacher_has_a_divergence_of_0(make_job: MakeJob) -> None:
    job = make_job("itself", lr=1e-6, max_steps=1)
    train_alone(dataclasses.replace(job, teacher=Teacher(base=BUNDLED["tiny"])))

    kl = read_artifact(job.artifact).metrics["measures"]["kl"]
    assert kl["before"] == pytest.approx(0, abs=1e-6)


# --- answers ----------------------------------------------------------------------------------------------------------


def written(job: StageJob) -> list[dict[str, Any]]:
    """The teacher's answers, as they are written down."""
    assert job.teacher is not None and job.teacher.answers is not None
    return [json.loads(line) for line in (job.teacher.answers / "0.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def answers(make_answered: MakeJob) -> dict[str, StageJob]:
    """One worker: each prompt's likeliest answer, and one that is drawn."""
    jobs = {"greedy": make_answered("greedy"), "drawn": make_answered("drawn", temperature=0.8)}
    for job in jobs.values():
        train_alone(job)
    return jobs


@pytest.mark.parametrize("case", ["greedy", "drawn"])
def test_two_workers_write_the_answers_of_one_and_learn_them_as_it_does(
    answers: dict[str, StageJob], together: dict[str, StageJob], case: str
) -> None:
    assert written(together[case]) == written(answers[case])
    assert losses(together[case]) == pytest.approx(losses(answers[case]), abs=TOLERANCE)


def test_drawn_answers_are_others(answers: dict[str, StageJob]) -> None:
    assert written(answers["drawn"]) != written(answers["greedy"])


def test_the_student_learns_to_answer_as_the_teacher_does(answers: dict[str, StageJob]) -> None:
    told = read_artifact(answers["greedy"].artifact).metrics["loss"]

    assert told["heldout_after"] < told["heldout_before"] - 0.2


def test_the_file_of_answers_is_data_for_a_stage(answers: dict[str, StageJob]) -> None:
    job = answers["greedy"]
    assert job.teacher is not None and job.teacher.answers is not None
    records = list(read_file(job.teacher.answers / "0.jsonl")[1])

    assert {record.kind for record in records} == {"messages"}
    assert [record.conversation[-1].content for record in records] == [
        row["completion"][0]["content"] for row in written(job)
    ]


def test_what_was_answered_before_a_kill_is_not_answered_again(
    make_answered: MakeJob, answers: dict[str, StageJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_answered("killed")
    answer, asked = Generator.answer, []

    def answer_and_die(self: Generator, prompts: Any, seeds: Any) -> Any:
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(len(prompts))
        return answer(self, prompts, seeds)

    def count(self: Generator, prompts: Any, seeds: Any) -> Any:
        asked.append(len(prompts))
        return answer(self, prompts, seeds)

    monkeypatch.setattr("fettle.train.answers._BATCH_TOKENS", 1000)
    monkeypatch.setattr(Generator, "answer", answer_and_die)
    with pytest.raises(KeyboardInterrupt):
        train_alone(job)
    with open(next(job.teacher.answers.glob("*.part")), "a") as part:  # type: ignore[union-attr]
        part.write('{"record": 5, "comple')  # torn in the middle of a line
    monkeypatch.setattr(Generator, "answer", count)
    train_alone(job)

    assert sum(asked) == 60
    assert written(job) == written(answers["greedy"])


def test_answers_that_never_end_are_refused_with_what_to_do(make_answered: MakeJob) -> None:
    with pytest.raises(UserError, match=r"of 60 answers of the teacher none ends within 1 tokens .*\n.*raise it"):
        train_alone(make_answered("short", max_new_tokens=1))


def test_a_student_that_is_trained_again_asks_nothing_again(
    answers: dict[str, StageJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = again(answers["greedy"], "again")
    monkeypatch.setattr(Generator, "answer", None)  # would fail

    assert losses(train_alone(job)) == losses(answers["greedy"])
