"""An OpenAI-compatible endpoint that is asked, from a server on loopback that does as it is told."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from threading import Event

import pytest
from judge_server import Failure, JudgeServer, judge_server

from fettle.errors import FettleError, UserError
from fettle.evaluate.endpoint import Endpoint, answers, why_away

KEY = "sk-very-secret"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[JudgeServer]:
    """It says every question backwards; no proxy stands before it."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with judge_server(lambda question: question[::-1]) as server:
        yield server


@pytest.fixture
def waits() -> list[float]:
    """How long was waited before another try."""
    return []


@pytest.fixture
def endpoint(server: JudgeServer, waits: list[float]) -> Endpoint:
    def wait(stop: Event, seconds: float) -> bool:
        waits.append(seconds)
        return stop.is_set()

    return Endpoint(server.url, "judge-1", key=KEY, parameters={"temperature": 0}, concurrency=3, tries=3, wait=wait)


def test_each_question_is_answered_in_its_place(endpoint, server, tmp_path):
    assert answers(endpoint, ["abc", "xyz", "abc"], tmp_path / "kept.jsonl") == ["cba", "zyx", "cba"]
    assert sorted(body["messages"][0]["content"] for body in server.asked) == ["abc", "xyz"]
    assert server.asked[0] == {
        "model": "judge-1",
        "temperature": 0,
        "messages": [{"role": "user", "content": server.asked[0]["messages"][0]["content"]}],
    }


def test_the_key_is_sent_and_written_nowhere(endpoint, server, tmp_path):
    answers(endpoint, ["abc"], tmp_path / "kept.jsonl")

    assert server.keys == [f"Bearer {KEY}"]
    assert KEY not in (tmp_path / "kept.jsonl").read_text() and KEY not in repr(endpoint)


def test_without_a_key_no_password_is_looked_for(endpoint, server, tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))

    answers(replace(endpoint, key=None), ["abc"], tmp_path / "kept.jsonl")

    assert server.keys == [None]


def test_no_more_than_so_many_questions_are_under_way(endpoint, server, tmp_path):
    server.rule = lambda question: time.sleep(0.01) or question
    answers(endpoint, [str(number) for number in range(30)], tmp_path / "kept.jsonl")

    assert server.most_at_once <= 3 and len(server.asked) == 30


def test_what_was_answered_is_not_asked_again(endpoint, server, tmp_path):
    kept = tmp_path / "kept.jsonl"
    answers(endpoint, ["abc"], kept)
    kept.write_text(kept.read_text() + '{"asked": "0123", "ans')  # killed while it wrote

    assert answers(endpoint, ["abc", "xyz"], kept) == ["cba", "zyx"]
    assert answers(endpoint, ["xyz", "abc"], kept) == ["zyx", "cba"]
    assert len(server.asked) == 2


def test_another_judge_is_asked_anew(endpoint, server, tmp_path):
    answers(endpoint, ["abc"], tmp_path / "kept.jsonl")
    answers(replace(endpoint, parameters={"temperature": 1}), ["abc"], tmp_path / "kept.jsonl")

    assert len(server.asked) == 2


def test_a_question_is_asked_again_after_longer_and_longer_waits(endpoint, server, waits, tmp_path):
    server.failures = [Failure(500), Failure(429)]

    assert answers(endpoint, ["abc"], tmp_path / "kept.jsonl") == ["cba"]
    assert waits == [1, 2]


@pytest.mark.parametrize(("told", "least", "most"), [("7", 7, 7), ("99999", 600, 600), ("soon", 1, 1)])
def test_it_waits_as_long_as_it_is_told_to(endpoint, server, waits, tmp_path, told, least, most):
    server.failures = [Failure(429, headers={"Retry-After": told})]
    answers(endpoint, ["abc"], tmp_path / "kept.jsonl")

    assert len(waits) == 1 and least <= waits[0] <= most


def test_it_waits_until_it_is_told_to(endpoint, server, waits, tmp_path):
    until = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    server.failures = [Failure(503, headers={"Retry-After": until})]
    answers(endpoint, ["abc"], tmp_path / "kept.jsonl")

    assert 0 < waits[0] <= 30


def test_an_endpoint_that_is_away_is_one_error_once_what_it_said_is_kept(endpoint, server, tmp_path):
    kept, alone = tmp_path / "kept.jsonl", replace(endpoint, concurrency=1)
    answers(alone, ["abc"], kept)
    server.failures = [Failure(503, "overloaded")] * 3

    told = r"has failed 3 times; at last: 503 .*: overloaded; answers kept: 1; the same command asks only the rest"
    with pytest.raises(FettleError, match=told) as away:
        answers(alone, ["abc", "xyz"], kept)

    assert away.value.exit_code == 1
    assert answers(alone, ["abc", "xyz"], kept) == ["cba", "zyx"]
    assert [body["messages"][0]["content"] for body in server.asked] == ["abc", *["xyz"] * 4]


def test_nobody_there_is_told_with_the_address(endpoint, server, tmp_path):
    nobody = replace(endpoint, url="http://127.0.0.1:9/v1")

    with pytest.raises(FettleError, match=r"judge http://127.0.0.1:9/v1 has failed 3 times; at last: no connection"):
        answers(nobody, ["abc"], tmp_path / "kept.jsonl")
    assert "no connection" in str(why_away(nobody))
    assert why_away(endpoint) is None


@pytest.mark.parametrize(
    ("failure", "got"),
    [
        (Failure(401, f"no such key: {KEY}"), "refuses: 401 Unauthorized: no such key: …"),
        (Failure(400, "max_tokens is too large"), "refuses: 400 Bad Request: max_tokens is too large"),
        (Failure(307, "", {"Location": "http://127.0.0.1:9/"}), "refuses: 307"),
        (Failure(200, "<html>hello</html>"), "answered '<html>hello</html>'"),
        (Failure(200, '{"choices": []}'), "answered '{"),
    ],
)
def test_a_refusal_is_told_at_once_without_the_key(endpoint, server, tmp_path, failure, got):
    server.failures = [failure]

    with pytest.raises(UserError) as refused:
        answers(endpoint, ["abc"], tmp_path / "kept.jsonl")

    assert got in str(refused.value) and KEY not in str(refused.value)
    assert len(server.asked) == 1


def test_an_answer_without_words_is_an_empty_one(endpoint, server, tmp_path: Path):
    server.failures = [Failure(200, '{"choices": [{"message": {"content": null}, "finish_reason": "length"}]}')]

    assert answers(endpoint, ["abc"], tmp_path / "kept.jsonl") == [""]
