"""`fettle chat`: a conversation with an endpoint, or with a model that is served for as long as it lasts."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer

from fettle.errors import FettleError, Interrupted, UserError

if TYPE_CHECKING:
    import requests

_CONNECT_S, _ANSWER_S = 10, 600
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_HELP = "An empty line is skipped; /new begins anew; Ctrl-D ends."


def chat_command(
    target: Annotated[
        str,
        typer.Argument(metavar="MODEL_OR_URL", help="An endpoint's http://HOST:PORT, or what `fettle serve` takes."),
    ],
    once: Annotated[str | None, typer.Option(metavar="QUESTION", help="Ask this, print the answer, end.")] = None,
    model: Annotated[str | None, typer.Option(help="Which of the endpoint's models; by default its last.")] = None,
    system: Annotated[str | None, typer.Option(help="A system message to begin with.")] = None,
    max_tokens: Annotated[int, typer.Option(help="Longest answer in tokens.")] = 256,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy; by default the model's own.")] = None,
    port: Annotated[
        int | None,
        typer.Option(help="Port for a model that is served here; by default a free one.", show_default=False),
    ] = None,
) -> None:
    """Chat with a model; from a pipe, each line is a turn."""
    from fettle.signals import interruptible

    with interruptible():
        try:
            with _endpoint(target, port) as (url, served):
                conversation = Conversation(
                    url, _chosen(url, model or served), system, {"max_tokens": max_tokens, "temperature": temperature}
                )
                if once is not None:
                    _print(conversation.ask(once))
                elif sys.stdin.isatty():
                    typer.echo(f"{conversation.model} at {url}. {_HELP}")
                    _converse(conversation, _typed())
                else:
                    _converse(conversation, (line.rstrip("\n") for line in sys.stdin))
        except (KeyboardInterrupt, Interrupted):
            raise Interrupted("stopped") from None


@dataclass
class Conversation:
    """Turns so far with one model; a turn that fails leaves no trace."""

    url: str
    model: str
    system: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    turns: list[dict[str, str]] = field(default_factory=list)

    def ask(self, question: str) -> Iterator[str]:
        """The answer's pieces as they come. Drops the oldest turns when the model's positions are full.

        Raises UserError where the endpoint refuses the request, FettleError where the answer breaks off.
        """
        turns = [*self.turns, {"role": "user", "content": question}]
        while True:
            response = self._post(turns)
            if response.status_code == 200:
                break
            reason = _reason(response)
            if "maximum context length" not in reason or len(turns) < 3:
                raise UserError(reason, field=f"{self.url} answered {response.status_code}")
            turns = turns[2:]
        answer = ""
        for piece in _pieces(response):
            answer += piece
            yield piece
        self.turns = [*turns, {"role": "assistant", "content": answer}]

    def _post(self, turns: list[dict[str, str]]) -> requests.Response:
        first = [{"role": "system", "content": self.system}] if self.system else []
        body = {"model": self.model, "messages": [*first, *turns], "stream": True}
        body |= {key: value for key, value in self.settings.items() if value is not None}
        return _request("POST", f"{self.url}/v1/chat/completions", json=body, stream=True)


def _converse(conversation: Conversation, questions: Iterable[str]) -> None:
    for question in questions:
        if question.strip() == "/new":
            conversation.turns.clear()
        elif question.strip():
            try:
                _print(conversation.ask(question))
            except UserError as error:
                if not sys.stdin.isatty():
                    raise
                typer.echo(f"fettle: {error}", err=True)


def _typed() -> Iterator[str]:
    import readline  # noqa: F401  # gives input() its line editing and history

    while True:
        try:
            yield input("> ")
        except EOFError:
            typer.echo()
            return


def _print(pieces: Iterable[str]) -> None:
    for piece in pieces:
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")
    sys.stdout.flush()


@contextmanager
def _endpoint(target: str, port: int | None) -> Iterator[tuple[str, str | None]]:
    """URL and model name; a model is served for the length of the block, what is going on told on standard error."""
    if target.startswith(("http://", "https://")):
        yield target.rstrip("/").removesuffix("/v1"), None
        return
    from fettle.serving.app import serve
    from fettle.serving.port import free_port

    def say(text: str) -> None:
        typer.echo(f"{text} …", err=True)

    with serve(target, port=port or free_port(), replicas=1, say=say) as endpoint:
        yield endpoint.url, endpoint.served.primary


def _chosen(url: str, wanted: str | None) -> str:
    """The model to talk to: an endpoint lists its base first, so the last is the most trained one."""
    response = _request("GET", f"{url}/v1/models")
    if response.status_code != 200:
        raise UserError(_reason(response), field=f"{url} answered {response.status_code}")
    try:
        names = [str(card["id"]) for card in response.json()["data"]]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{url} is no OpenAI-compatible endpoint", expected="what `fettle serve` prints") from None
    if wanted is None:
        return names[-1]
    if wanted not in names:
        raise UserError(f"{url} has no model '{wanted}'", field="--model", expected=", ".join(names))
    return wanted


def _pieces(response: requests.Response) -> Iterator[str]:
    """The text of each server-sent event. Raises FettleError for an error among them or a stream that breaks off."""
    import requests

    ended = False
    try:
        for line in response.iter_lines():
            if not line.startswith(b"data: "):
                continue
            if line == b"data: [DONE]":
                ended = True
                break
            event = json.loads(line[6:])
            if "error" in event:
                raise FettleError(f"the endpoint broke off: {event['error'].get('message')}")
            for choice in event.get("choices", ()):
                yield choice.get("delta", {}).get("content") or ""
    except requests.RequestException as error:
        raise FettleError(f"the connection broke off ({type(error).__name__})") from error
    if not ended:
        raise FettleError("the endpoint broke off in the middle of an answer")


def _request(method: str, url: str, **what: Any) -> requests.Response:
    import requests

    session = requests.Session()
    session.trust_env = urlsplit(url).hostname not in _LOOPBACK  # a proxy of the environment cannot reach this machine
    try:
        return session.request(method, url, timeout=(_CONNECT_S, _ANSWER_S), **what)
    except requests.RequestException as error:
        raise UserError(
            f"nothing answers at {url} ({type(error).__name__})", fix="start it with `fettle serve MODEL`"
        ) from error


def _reason(response: requests.Response) -> str:
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return response.text.strip()[:300] or "no reason given"
