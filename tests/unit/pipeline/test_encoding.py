"""A stage's sources as token sets: shared between runs, group by group of files, without the records that are bad."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from small_house import House, chat, lines

from fettle.data.line_index import LineIndex
from fettle.data.tokens import TokenSet, choose_heldout
from fettle.errors import UserError
from fettle.output import cache_folder
from fettle.pipeline import encoding
from fettle.pipeline.prepare import prepare
from fettle.recipe.data import HeldoutSpec
from fettle.train.curriculum import StepsUnderway, curriculum
from fettle.train.job import StageJob

TASK = {"name": "task", "kind": "sft", "data": "chat.jsonl"}
STREAMED = TASK | {"streaming": True, "max_steps": 9, "batch": {"sequences": 4}}


def prepared(house: House, out: Path | None = None, **stage: Any) -> tuple[StageJob, list[str]]:
    house = house.with_stages(TASK | stage)
    (job,), notes = prepare(house.recipe(), house.plan(), (out or house.out) / "tokens")
    return job, notes


def entries() -> set[str]:
    return set(os.listdir(cache_folder("tokens")))


def plain(tokens: TokenSet) -> list[list[int]]:
    return [example.input_ids.tolist() for example in tokens]


def write_parts(house: House, *sizes: int) -> None:
    (house.folder / "parts").mkdir(exist_ok=True)
    for part, size in enumerate(sizes):
        rows = [chat(100 * part + number) for number in range(size)]
        (house.folder / "parts" / f"{part}.jsonl").write_text(lines(rows))


def test_two_runs_share_what_is_encoded(house):
    one, _ = prepared(house)
    two, _ = prepared(house, house.folder / "other")
    files = [job.tokens[0][0] / "ids.bin" for job in (one, two)]
    assert len(entries()) == 1 and files[0] != files[1] and files[0].samefile(files[1])


def test_a_file_with_the_same_content_is_encoded_once_wherever_it_lies(house):
    prepared(house)
    (house.folder / "chat.jsonl").rename(house.folder / "moved.jsonl")
    prepared(house, data="moved.jsonl")
    assert len(entries()) == 1


def test_the_same_bytes_under_another_suffix_are_other_records(house):
    (house.folder / "x.txt").write_text('{"text": "a"}\n')
    (house.folder / "x.jsonl").write_text('{"text": "a"}\n')
    one, two = (prepared(house, kind="pretrain", data=f"x.{suffix}")[0] for suffix in ("txt", "jsonl"))
    assert plain(TokenSet(*one.tokens[0])) != plain(TokenSet(*two.tokens[0]))


def test_a_large_file_is_encoded_by_itself_and_one_more_leaves_it_alone(house, monkeypatch):
    monkeypatch.setattr(encoding, "_GROUP_BYTES", 100)  # each of these files is larger
    write_parts(house, 5, 6)
    job, _ = prepared(house, data="parts")
    before = entries()
    assert [len(TokenSet(folder)) for folder in job.tokens[0]] == [5, 6]
    write_parts(house, 5, 6, 7)
    job, _ = prepared(house, data="parts")
    assert len(entries() - before) == 1 and len(TokenSet(*job.tokens[0])) == 18


def test_a_small_file_more_before_a_large_one_leaves_the_large_one_alone(house, monkeypatch):
    write_parts(house, 1, 1, 30)
    large = house.folder / "parts" / "2.jsonl"
    monkeypatch.setattr(encoding, "_GROUP_BYTES", large.stat().st_size)
    before = prepared(house, data="parts")[0].tokens[0]
    (house.folder / "parts" / "1a.jsonl").write_text(lines([chat(5000)]))
    after = prepared(house, data="parts")[0].tokens[0]
    assert before[-1] == after[-1] and len(TokenSet(after[-1])) == 30


def test_small_files_are_encoded_together_in_their_order(house):
    write_parts(house, *range(1, 9))
    job, _ = prepared(house, data="parts")
    assert len(job.tokens[0]) < 4 and TokenSet(*job.tokens[0]).counts["records"] == 36
    (alone,), _ = (prepared(house, data="parts/0.jsonl")[0].tokens, None)
    assert plain(TokenSet(*job.tokens[0]))[0] == plain(TokenSet(*alone))[0]


def test_one_file_more_among_many_small_ones_encodes_only_its_neighbours_again(house, monkeypatch):
    write_parts(house, *[3] * 64)
    size = (house.folder / "parts" / "0.jsonl").stat().st_size
    monkeypatch.setattr(encoding, "_GROUP_BYTES", 4 * size)
    job, _ = prepared(house, data="parts")
    before = entries()
    assert 4 < len(job.tokens[0]) < 40
    (house.folder / "parts" / "17a.jsonl").write_text(lines([chat(5000)]))
    prepared(house, data="parts")
    assert len(entries() - before) <= 2


def test_an_interrupted_preparation_keeps_what_was_finished(house, monkeypatch):
    monkeypatch.setattr(encoding, "_GROUP_BYTES", 100)
    write_parts(house, 5, 6)
    fill, filled = encoding._fill, []

    def interrupted(folder: Path, source: Any, **how: Any) -> None:
        if filled:
            raise KeyboardInterrupt
        filled.append(source)
        fill(folder, source=source, **how)

    monkeypatch.setattr(encoding, "_fill", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepared(house, data="parts")
    first = entries()
    assert len(first) == 1
    monkeypatch.setattr(encoding, "_fill", fill)
    prepared(house, data="parts")
    assert first < entries() and len(entries()) == 2


def test_a_limit_counts_over_all_files(house, monkeypatch):
    monkeypatch.setattr(encoding, "_GROUP_BYTES", 100)
    write_parts(house, 5, 6, 7)
    job, _ = prepared(house, data={"path": "parts", "limit": 8})
    assert len(TokenSet(*job.tokens[0])) == 8


def test_a_file_without_anything_to_learn_is_no_mistake_beside_one_that_has(house, monkeypatch):
    monkeypatch.setattr(encoding, "_GROUP_BYTES", 100)
    write_parts(house, 5)
    (house.folder / "parts" / "1.jsonl").write_text(lines([{"prompt": "x" * 500, "completion": "y"}]))
    job, notes = prepared(house, data="parts")
    assert len(TokenSet(*job.tokens[0])) == 5 and "1 with nothing to learn were skipped" in notes[-1]
    (house.folder / "parts" / "0.jsonl").write_text(lines([{"prompt": "x" * 600, "completion": "y"}]))
    with pytest.raises(UserError, match=r"stages\.task\.data: no token bears loss in any of 2 records"):
        prepared(house, data="parts")


def write_bad(house: House) -> None:
    """Two good rows, and bad ones on lines 2 and 4."""
    good = [json.dumps(chat(number)) for number in range(2)]
    (house.folder / "chat.jsonl").write_text("\n".join([good[0], '{"messages": 3}', good[1], "{broken"]) + "\n")


def test_bad_records_are_left_out_and_written_down_with_file_line_and_reason(house):
    write_bad(house)
    job, notes = prepared(house, data={"path": "chat.jsonl", "on_bad_record": "skip"})
    file = job.folder / "skipped.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(TokenSet(*job.tokens[0])) == 2
    assert [(row["file"], row["line"]) for row in rows] == [(str(house.folder / "chat.jsonl"), line) for line in (2, 4)]
    assert all(row["reason"] for row in rows)
    assert f"stages.task: 2 bad records left out; see {file}" in notes


def test_what_was_skipped_is_told_also_where_another_run_encoded_it_and_under_its_own_name(house):
    write_bad(house)
    prepared(house, data={"path": "chat.jsonl", "on_bad_record": "skip"})
    (house.folder / "chat.jsonl").rename(house.folder / "moved.jsonl")
    job, notes = prepared(house, house.folder / "other", data={"path": "moved.jsonl", "on_bad_record": "skip"})
    assert "moved.jsonl" in (job.folder / "skipped.jsonl").read_text() and any("2 bad records" in n for n in notes)


def test_a_bad_record_is_an_error_unless_it_is_to_be_skipped(house):
    write_bad(house)
    with pytest.raises(UserError, match=r"chat\.jsonl"):
        prepared(house)
    assert not house.out.exists()


def test_a_streamed_source_is_indexed_and_not_encoded(house):
    job, _ = prepared(house, **STREAMED)
    (source,) = job.streams
    assert job.tokens == () and len(LineIndex(source.files[0], source.indexes[0])) == 20
    assert {name.split("-")[0] for name in entries()} == {"index", "heldout"}
    assert all(folder.is_relative_to(house.out) for folder in (*source.indexes, *job.heldout))


def test_what_is_held_out_of_a_stream_is_what_is_held_out_of_the_encoded_set(house):
    spec = HeldoutSpec(fraction=0.3, max=4)
    cached, _ = prepared(house, heldout=spec.model_dump(exclude={"data"}))
    streamed, _ = prepared(house, **STREAMED, heldout=spec.model_dump(exclude={"data"}))
    tokens = TokenSet(*cached.tokens[0])
    _, out = choose_heldout(tokens, spec)
    assert plain(TokenSet(*streamed.heldout)) == [tokens[place].input_ids.tolist() for place in out] != []


def test_a_streamed_stage_learns_the_very_steps_of_one_that_is_encoded_before(house):
    sources = {"data": ["chat.jsonl", {"path": "general.jsonl", "weight": 0.5}], "heldout": {"data": "general.jsonl"}}
    replay = {"replay": {"data": {"path": "corpus.txt", "split": "lines"}, "fraction": 0.2}}
    steps = []
    for keys in (STREAMED, STREAMED | {"streaming": False}):
        job, _ = prepared(house, **(keys | sources | replay))
        underway = StepsUnderway(curriculum(job))
        steps.append([[one.input_ids.tolist() for one in step] for step in underway])
    assert steps[0] == steps[1] and len(steps[0]) == 9


def test_held_out_examples_are_not_streamed_from_any_source(house):
    (house.folder / "again.jsonl").write_text((house.folder / "chat.jsonl").read_text())
    job, _ = prepared(house, **(STREAMED | {"data": ["chat.jsonl", "again.jsonl"], "max_steps": 30}))
    out = {tuple(ids) for ids in plain(TokenSet(*job.heldout))}
    learned = {tuple(one.input_ids.tolist()) for step in StepsUnderway(curriculum(job)) for one in step}
    assert out and not out & learned and len(learned | out) == 20


def test_bad_records_of_a_stream_are_written_down_once_by_the_first_worker_when_they_are_met(house):
    write_bad(house)
    job, _ = prepared(house, **(STREAMED | {"data": {"path": "chat.jsonl", "on_bad_record": "skip"}}))
    for rank in (1, 0, 0):
        assert len(list(StepsUnderway(curriculum(job, rank)))) == 9
    rows = [json.loads(line) for line in (job.folder / "skipped.jsonl").read_text().splitlines()]
    assert sorted(row["line"] for row in rows) == [2, 4]


@pytest.mark.parametrize(("name", "fix"), [("corpus.txt", "convert it to .jsonl"), ("x.jsonl.gz", "unpack it")])
def test_a_file_that_cannot_be_streamed_is_told_before_anything_is_written(house, name, fix):
    import gzip

    (house.folder / "x.jsonl.gz").write_bytes(gzip.compress(lines([{"text": "a"}]).encode()))
    stages = [TASK, STREAMED | {"name": "last", "kind": "pretrain", "data": name}]
    house = house.with_stages(*stages)
    with pytest.raises(UserError, match="cannot be streamed") as told:
        prepare(house.recipe(), house.plan(), house.out / "tokens")
    assert name in str(told.value) and fix in str(told.value) and not house.out.exists()


def test_streaming_without_max_steps_is_refused_where_the_recipe_is_read(house):
    with pytest.raises(UserError, match="streaming needs max_steps"):
        house.with_stages(TASK | {"streaming": True}).recipe()
