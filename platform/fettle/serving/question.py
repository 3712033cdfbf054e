"""What the ingress asks an engine's replica, and the parts of its answer: plain, picklable."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from starlette.responses import Response

from fettle.errors import FettleError


class Question(NamedTuple):
    """A request that was checked. path: of the route. wanted: its body. id: by which it is found in logs. visible:
    patterns of the names that it may know of; None is all."""

    path: str
    wanted: dict[str, Any]
    id: str
    visible: tuple[str, ...] | None = None


class Part(NamedTuple):
    """A piece of an answer. more: another one comes. status and headers: of the first one alone."""

    body: bytes
    more: bool
    status: int | None = None
    headers: tuple[tuple[bytes, bytes], ...] = ()


MOST_BYTES = 2 << 20
"""Of one message between the ingress and a replica; Ray Serve's gRPC takes 4 MiB."""
_END_BYTES = 64 << 10


def pieces(part: Part) -> Iterator[Part]:
    """A part in messages of MOST_BYTES. Its end, where an answer tells its tokens, is in one of them."""
    at, end = 0, len(part.body)
    while end - at > MOST_BYTES + _END_BYTES:
        yield part._replace(body=part.body[at : at + MOST_BYTES], more=True)
        part, at = Part(part.body, part.more), at + MOST_BYTES
    yield part if at == 0 else part._replace(body=part.body[at:])


def whole(response: Response) -> Part:
    """An answer of one part."""
    headers = tuple((bytes(key), bytes(value)) for key, value in response.raw_headers)
    return Part(bytes(response.body), False, response.status_code, headers)


VERSION = b"x-fettle-version"
"""The header of an answer that a published version gave, whatever it is."""
DIGEST = b"x-fettle-digest"
"""Beside it, that version's."""
TAKEN = Part(b"", True)
"""Comes before the answer, as soon as a replica has the question: from then on it may take as long as it takes."""


class EngineDied(FettleError):
    """The replica cannot answer, and another one can."""
