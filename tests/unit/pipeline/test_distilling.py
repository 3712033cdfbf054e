"""A distillation's teacher: found, told in the fingerprint, refused where it cannot teach."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from small_house import House, finish, lines, write_base

from fettle.artifact import new_artifact
from fettle.errors import UserError
from fettle.models.base import digest_of
from fettle.pipeline.prepare import prepare

LORA = {"kind": "lora", "r": 4}
TEACHER = {"name": "teacher", "kind": "sft", "data": "general.jsonl"}
STUDENT = {"name": "student", "kind": "distill", "data": "chat.jsonl", "teacher": "teacher", "base": "base"}
ANSWERS = STUDENT | {"loss": "answers", "max_new_tokens": 32}


def prepared(house: House) -> Any:
    """(jobs, notes) of the house's recipe."""
    return prepare(house.recipe(), house.plan(), house.out / "tokens")


def refused(house: House) -> str:
    """The message of the mistake in plan or data, without the house's folder."""
    with pytest.raises(UserError) as told:
        prepared(house)
    return str(told.value).replace(f"{house.folder}/", "")


def changed(folder: Path, **config: Any) -> None:
    """Other keys in a base's config.json."""
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | config))


def test_the_teacher_is_an_earlier_stage_by_its_fingerprint(house):
    teacher, student = house.with_stages(TEACHER, STUDENT).plan()
    assert (student.teacher.base, student.teacher.identity) == (teacher.artifact, teacher.fingerprint)
    assert student.origin.base == house.folder / "base"


def test_a_teacher_that_was_trained_as_an_adapter_is_its_base_and_the_adapter(house):
    teacher, student = house.with_stages(TEACHER | {"adapter": LORA}, STUDENT).plan()
    assert (student.teacher.base, student.teacher.adapter) == (house.folder / "base", teacher.artifact)


def test_the_teacher_may_be_a_folder_told_by_its_digest(house):
    write_base(house.folder / "large")
    (student,) = house.with_stages(STUDENT | {"teacher": "large"}).plan()
    assert (student.teacher.base, student.teacher.identity) == (
        house.folder / "large",
        digest_of(house.folder / "large"),
    )


def test_another_teacher_is_another_fingerprint_and_the_same_elsewhere_is_not(house):
    for name in ("one", "two", "three"):
        write_base(house.folder / name)
    changed(house.folder / "three", rope_theta=1e6)
    found = [house.with_stages(STUDENT | {"teacher": name}).fingerprints()[0] for name in ("one", "two", "three")]
    assert found[0] == found[1] != found[2]


def test_a_later_stage_begins_from_the_student(house):
    _, student, last = house.with_stages(TEACHER, STUDENT, TEACHER | {"name": "last"}).plan()
    assert last.origin.base == student.artifact


def test_a_later_stage_is_no_teacher(house):
    with pytest.raises(UserError, match=r"stages.student.teacher: 'teacher' is no earlier stage"):
        house.with_stages(STUDENT, TEACHER).plan()


def test_a_reward_model_is_no_teacher(house):
    with new_artifact(house.folder / "taste", kind="reward", name="taste", fingerprint="f") as folder:
        for file in (house.folder / "base").iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
    assert "taste is a reward, no language model" in refused(house.with_stages(STUDENT | {"teacher": "taste"}))


def test_an_adapter_that_cannot_be_merged_is_no_teacher(house):
    prefix = TEACHER | {"adapter": {"kind": "prefix", "tokens": 4}}
    message = refused(house.with_stages(prefix, STUDENT | {"adapter": "full"}))
    assert "stages.student.teacher: the teacher's adapter cannot be merged: it is of kind prefix" in message


def test_a_student_that_begins_as_its_teacher_is_refused_unless_it_is_meant(house):
    message = refused(house.with_stages(TEACHER, {key: told for key, told in STUDENT.items() if key != "base"}))
    assert "stages.student.teacher: the student begins as the teacher itself" in message
    itself = {key: told for key, told in STUDENT.items() if key != "base"} | {"from": "teacher"}
    assert "begins as the teacher itself" in refused(house.with_stages(TEACHER, itself | {"alpha": 1.0}))
    assert prepared(house.with_stages(TEACHER, itself))


def test_other_tokens_are_refused_with_the_loss_that_works(house):
    large = write_base(house.folder / "large")
    vocab = json.loads((large / "tokenizer.json").read_text())
    first, second = (token for token, number in vocab["model"]["vocab"].items() if number < 2)
    vocab["model"]["vocab"] |= {first: 1, second: 0}
    (large / "tokenizer.json").write_text(json.dumps(vocab))

    message = refused(house.with_stages(STUDENT | {"teacher": "large"}))
    assert "teacher and student have other tokens: of the student's 259, 2 are not the teacher's" in message
    assert message.endswith("fix: say loss: answers, which works with any two")
    assert prepared(house.with_stages(ANSWERS | {"teacher": "large"}))


def test_vocabularies_may_be_padded_but_not_be_smaller_than_the_tokenizer(house):
    changed(write_base(house.folder / "padded"), vocab_size=512)
    changed(write_base(house.folder / "lacking"), vocab_size=258)
    assert prepared(house.with_stages(STUDENT | {"teacher": "padded"}))
    message = refused(house.with_stages(STUDENT | {"teacher": "lacking"}))
    assert "the teacher's tokenizer has more tokens than its output head's 258 rows" in message


def test_a_teacher_of_fewer_positions_is_refused(house):
    changed(write_base(house.folder / "short"), max_position_embeddings=64)
    message = refused(house.with_stages(STUDENT | {"teacher": "short"}))
    assert "max_length 128 is above the 64 positions of the teacher" in message


# --- answers ----------------------------------------------------------------------------------------------------------


def test_the_workers_are_handed_the_prompts_and_encode_the_answers(house):
    (house.folder / "asked.jsonl").write_text(lines([{"prompt": "What is 7?"}, {"prompt": "What is 8?"}]))
    house = house.with_stages(TEACHER, ANSWERS | {"data": "asked.jsonl", "heldout": {"data": "chat.jsonl"}})
    (_, job), notes = prepared(house)

    assert (job.tokens, job.heldout, job.weights) == ((), (), (1.0,))
    assert [source.files[0].name for source in (*job.teacher.prompts, job.teacher.heldout_prompts)] == [
        "asked.jsonl",
        "chat.jsonl",
    ]
    assert job.teacher.base == house.plan()[0].artifact
    assert any(str(job.teacher.answers) in note for note in notes)


def test_replayed_records_keep_their_own_answers(house):
    replay = {"data": "corpus.txt", "fraction": 0.2}
    (_, job), _ = prepared(house.with_stages(TEACHER, ANSWERS | {"replay": replay}))
    assert (len(job.tokens), len(job.weights), len(job.teacher.prompts)) == (1, 2, 1)


def answers_of(house: House, **keys: Any) -> Path:
    (_, job), _ = prepared(house.with_stages(TEACHER, ANSWERS | keys))
    assert job.teacher is not None and job.teacher.answers is not None
    return job.teacher.answers


def test_answers_are_named_by_what_decides_them(house):
    one = answers_of(house)
    assert answers_of(house, lr=1e-5, epochs=3) == one
    others = [answers_of(house, temperature=0.7), answers_of(house, max_new_tokens=16)]
    assert len({one, *others, answers_of(house, data="general.jsonl")}) == 4


def test_answers_as_long_as_the_teachers_positions_leave_no_room(house):
    message = refused(house.with_stages(TEACHER, ANSWERS | {"max_new_tokens": 128}))
    assert "128 new tokens leave none of the teacher's 128 positions for a prompt" in message


def test_prompts_that_are_too_long_are_told_and_refused_where_all_are(house):
    rows = [{"prompt": "What?"}, {"prompt": "x" * 100}]
    (house.folder / "asked.jsonl").write_text(lines(rows))
    _, notes = prepared(house.with_stages(TEACHER, ANSWERS | {"data": "asked.jsonl"}))
    told = "stages.student.data: of 2 prompts 1 are longer than the 96 tokens that leave the teacher room for an answer"
    assert f"{told}, and are left out" in notes
    (house.folder / "asked.jsonl").write_text(lines(rows[1:]))
    message = refused(house.with_stages(TEACHER, ANSWERS | {"data": "asked.jsonl"}))
    assert "none of 1 prompts has 96 tokens or less" in message


def test_texts_are_no_prompts(house):
    message = refused(house.with_stages(TEACHER, ANSWERS | {"data": "corpus.txt"}))
    assert "text records for a stage of kind distill" in message
    assert "expected: prompts, with or without answers" in message


def test_a_finished_teacher_is_taken_as_it_is(house):
    house = house.with_stages(TEACHER, ANSWERS)
    finish(house.plan()[0])
    assert [stage.is_done for stage in house.plan()] == [True, False]
