"""How many tokens an answer had, read from the answer as it passes."""

from __future__ import annotations

import re
from typing import Any

_NUMBER = re.compile(rb'"(prompt_tokens|completion_tokens)":\s*(\d+)')
_NO_CHOICES = re.compile(rb'"choices":\s*\[\]')


class Usage:
    """prompt and completion: tokens, 0 where the answer did not tell. pieces: of a streamed answer, events so far."""

    def __init__(self, is_wanted: bool) -> None:
        """is_wanted: whether the caller asked for the event that tells it; otherwise it is left out of the stream."""
        self.is_wanted = is_wanted
        self.prompt = self.completion = self.pieces = 0

    def read(self, body: bytes, is_stream: bool) -> bytes:
        """Looks at a part of the answer; gives what of it is for the caller."""
        if not is_stream:
            self._look(body)
            return body
        if b'"usage"' not in body:
            self.pieces += body.count(b"\n\n")
            return body
        kept = []
        for event in body.split(b"\n\n"):
            if b'"usage"' in event and _NO_CHOICES.search(event):
                self._look(event)
                if not self.is_wanted:
                    continue
            elif event:
                self.pieces += 1
            kept.append(event)
        return b"\n\n".join(kept)

    def _look(self, body: bytes) -> None:
        told = {name: int(number) for name, number in _NUMBER.findall(body)}
        self.prompt, self.completion = (
            told.get(b"prompt_tokens", self.prompt),
            told.get(b"completion_tokens", self.completion),
        )


def with_usage(wanted: dict[str, Any]) -> tuple[dict[str, Any], Usage]:
    """The request, which asks for its usage where it streams, and what reads that."""
    if wanted.get("stream") is not True:
        return wanted, Usage(True)
    options = wanted.get("stream_options")
    if not isinstance(options, dict):
        options = {}
    is_wanted = bool(options.get("include_usage"))
    return wanted | {"stream_options": {**options, "include_usage": True}}, Usage(is_wanted)
