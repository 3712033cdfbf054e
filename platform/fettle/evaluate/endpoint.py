"""An OpenAI-compatible chat endpoint, asked many questions at once; what it answers is written down as it comes."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import Any

import requests

from fettle.errors import FettleError, UserError

_WORTH_ANOTHER = (408, 409, 425, 429)
_LONGEST_WAIT_S, _LONGEST_BACKOFF_S = 600.0, 60.0
_TELL_EVERY_S = 10.0


@dataclass(frozen=True)
class Endpoint:
    """url: up to and with its version (`…/v1`). key: sent as a bearer token, and in no error. parameters: sent with the
    model and the messages. concurrency: questions under way at once. timeout_s: of one try. wait: until a time has
    passed or there is nothing to wait for any more; it says whether that is so."""

    url: str
    model: str
    key: str | None = field(default=None, repr=False)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    concurrency: int = 8
    timeout_s: float = 120.0
    tries: int = 5
    wait: Callable[[Event, float], bool] = Event.wait

    def body(self, question: str) -> str:
        """What is sent, as JSON."""
        messages = [{"role": "user", "content": question}]
        return json.dumps({"model": self.model, "messages": messages, **self.parameters}, sort_keys=True)

    def signed(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """With the key; given as `auth`, since without one requests looks for a password in ~/.netrc."""
        if self.key is not None:
            request.headers["Authorization"] = f"Bearer {self.key}"
        return request

    def without_key(self, text: str) -> str:
        """What may be told of an answer's text."""
        text = " ".join(text.split())
        return (text if self.key is None else text.replace(self.key, "…"))[:200]


def why_away(endpoint: Endpoint, timeout_s: float = 5.0) -> str | None:
    """What keeps the endpoint from telling its models, None where it does."""
    try:
        answer = requests.get(f"{endpoint.url}/models", auth=endpoint.signed, timeout=timeout_s, allow_redirects=False)
    except requests.RequestException as error:
        return _said(error, timeout_s)
    # Not every endpoint lists its models.
    return _told(endpoint, answer) if answer.status_code in (401, 403) or answer.status_code >= 500 else None


def answers(
    endpoint: Endpoint, questions: Sequence[str], kept: Path, say: Callable[[str], None] = lambda _: None
) -> list[str]:
    """The endpoint's answer to each question. kept: a file to which each is added as it comes, and out of which those
    are taken that were asked before.

    Raises FettleError where the endpoint is away, and UserError where it refuses, once all that it did answer is kept.
    """
    there = _kept(kept)
    asked = {_digest(endpoint, question): question for question in questions}
    left = {digest: question for digest, question in asked.items() if digest not in there}
    if left:
        say(f"asking {endpoint.model} at {endpoint.url} {len(left):,} of {len(asked):,} questions")
        told_at = time.monotonic()
        with open(kept, "a", encoding="utf-8") as stream:
            stream.write("\n" if kept.stat().st_size else "")  # after a line that was torn when a run was killed
            for digest, answer in _asked(endpoint, left, len(there)):
                there[digest] = answer
                stream.write(json.dumps({"asked": digest, "answer": answer}, ensure_ascii=False) + "\n")
                stream.flush()
                if time.monotonic() - told_at > _TELL_EVERY_S:
                    told_at = time.monotonic()
                    say(f"{sum(one in there for one in asked):,} of {len(asked):,} questions answered")
    return [there[_digest(endpoint, question)] for question in questions]


def _kept(file: Path) -> dict[str, str]:
    found = dict[str, str]()
    if file.is_file():
        with open(file, encoding="utf-8", errors="replace") as stream:
            for line in stream:
                with suppress(ValueError, LookupError, TypeError):
                    row = json.loads(line)
                    found[row["asked"]] = row["answer"]
    return found


def _digest(endpoint: Endpoint, question: str) -> str:
    return hashlib.sha256(f"{endpoint.url}\n{endpoint.body(question)}".encode()).hexdigest()


def _asked(endpoint: Endpoint, left: Mapping[str, str], before: int) -> Iterator[tuple[str, str]]:
    """(digest, answer) as they come. The threads are daemons: one that waits for an answer keeps no process alive."""
    waiting, found, stop = SimpleQueue[tuple[str, str]](), SimpleQueue[Any](), Event()
    for one in left.items():
        waiting.put(one)

    def work() -> None:
        try:
            with requests.Session() as session, suppress(Empty):
                while not stop.is_set():
                    digest, question = waiting.get_nowait()
                    answer = _answer(endpoint, session, question, stop)
                    if answer is not None:
                        found.put((digest, answer))
        except Exception as error:  # handed to the caller
            stop.set()
            found.put(error)
        finally:
            found.put(None)

    num, done, failure = min(endpoint.concurrency, len(left)), 0, None
    for number in range(num):
        Thread(target=work, name=f"judge-{number}", daemon=True).start()
    try:
        while num:
            one = found.get()
            if one is None:
                num -= 1
            elif isinstance(one, Exception):
                failure = failure or one
            else:
                done += 1
                yield one
    finally:
        stop.set()
    if isinstance(failure, FettleError):
        told = f"{failure.got if isinstance(failure, UserError) else failure}; answers kept: {before + done:,}"
        if isinstance(failure, UserError):
            raise UserError(told, expected=failure.expected, fix=failure.fix)
        raise FettleError(f"{told}; the same command asks only the rest")
    if failure is not None:
        raise failure


def _answer(endpoint: Endpoint, session: requests.Session, question: str, stop: Event) -> str | None:
    """The text of the answer; None where the others have failed meanwhile."""
    last, delay = "", 0.0
    for number in range(endpoint.tries):
        if number and endpoint.wait(stop, delay):
            return None
        delay = min(2.0**number, _LONGEST_BACKOFF_S)
        try:
            answer = session.post(
                f"{endpoint.url}/chat/completions",
                data=endpoint.body(question).encode(),
                headers={"Content-Type": "application/json"},
                auth=endpoint.signed,
                timeout=endpoint.timeout_s,
                allow_redirects=False,  # a key goes nowhere else
            )
        except requests.RequestException as error:
            last = _said(error, endpoint.timeout_s)
            continue
        if answer.status_code >= 500 or answer.status_code in _WORTH_ANOTHER:
            last, delay = _told(endpoint, answer), _retry_after(answer, delay)
            continue
        return _content(endpoint, answer)
    raise FettleError(f"the judge {endpoint.url} has failed {endpoint.tries} times; at last: {last}")


def _content(endpoint: Endpoint, answer: requests.Response) -> str:
    who = f"the judge {endpoint.url}"
    if answer.status_code != 200:
        raise UserError(f"{who} refuses: {_told(endpoint, answer)}", fix="see url, model, key_env and parameters")
    try:
        said = answer.json()["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError):
        said = 0
    if not isinstance(said, (str, type(None))):
        raise UserError(
            f"{who} answered {endpoint.without_key(answer.text)!r}",
            expected="a chat completion as OpenAI's API has it",
            fix="see that url is that of the API, such as http://127.0.0.1:8000/v1",
        )
    return said or ""  # None: all its tokens went into thinking


def _retry_after(answer: requests.Response, otherwise: float) -> float:
    """Seconds to wait, as the answer asks for (RFC 9110, section 10.2.3)."""
    told = answer.headers.get("Retry-After", "")
    try:
        seconds = float(told) if told.strip().isdigit() else parsedate_to_datetime(told).timestamp() - time.time()
    except (ValueError, TypeError):
        return otherwise
    return min(max(seconds, 0.0), _LONGEST_WAIT_S)


def _told(endpoint: Endpoint, answer: requests.Response) -> str:
    return f"{answer.status_code} {answer.reason}: {endpoint.without_key(answer.text)}"


def _said(error: requests.RequestException, timeout_s: float) -> str:
    if isinstance(error, requests.Timeout):
        return f"no answer within {timeout_s:g} s"
    return f"no connection ({str(error)[:200]})"
