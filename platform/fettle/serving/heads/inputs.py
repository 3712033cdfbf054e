"""What a request gives a model to read, as token ids: texts, tokens, or messages, as its training would have them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError
from transformers import PreTrainedTokenizerBase

from fettle.data.chat import neutral_of
from fettle.data.coder import Coder
from fettle.data.formats.fields import Layout, text_in
from fettle.data.formats.turns import WORDS, turns_in
from fettle.data.frame import frame_of
from fettle.data.record import Message, Prompt, Record
from fettle.data.rows import Row
from fettle.errors import UserError

_REQUEST = Row(Path("request"), 0, {})
_TEXTS = "a text, a list of texts, a list of token ids, or a list of such lists"

Input = str | list[int] | tuple[Message, ...]


class Body(BaseModel):
    """The fields of a request that are looked at; others are left alone."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)


SomeBody = TypeVar("SomeBody", bound=Body)


def checked(kind: type[SomeBody], wanted: dict[str, Any]) -> SomeBody:
    """The request's fields, null being as good as absent. Raises UserError with the field of the first wrong one."""
    try:
        return kind.model_validate({key: value for key, value in wanted.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(first["msg"], field=str(first["loc"][0]) if first["loc"] else None) from None


def inputs_of(wanted: dict[str, Any], field: str = "input") -> list[Input]:
    """What `field` or `messages` gives. Raises UserError for what is neither, and for both."""
    given, messages = wanted.get(field), wanted.get("messages")
    if messages is not None and given is not None:
        raise UserError(f"both {field} and messages", field=field, expected="one of them")
    if messages is not None:
        return [messages_in(messages, "messages")]
    if isinstance(given, str):
        return [text_in(_REQUEST, given, field)]
    if isinstance(given, list) and _are_tokens(given):
        return [given]
    if not isinstance(given, list) or not given:
        raise UserError("nothing to read", field=field, expected=_TEXTS)
    found: list[Input] = []
    for place, one in enumerate(given):
        if not isinstance(one, str) and not _are_tokens(one):
            raise UserError("neither text nor token ids", field=f"{field}.{place}", expected=_TEXTS)
        found.append(text_in(_REQUEST, one, f"{field}.{place}") if isinstance(one, str) else one)
    return found


def messages_in(value: Any, field: str) -> tuple[Message, ...]:
    """OpenAI's messages as the data's reader has them. Raises UserError for what is none."""
    return tuple(turns_in(_REQUEST, Layout({}, WORDS), value, field, learns=False))


class Reader:
    """Of one tokenizer. limit: tokens of an input. vocabulary: ids that the model knows.

    texts: `learned` are framed as a stage's records; `plain` as the tokenizer frames them by itself; `rendered` are a
    template's work already, so that names of control tokens in them are those tokens.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        limit: int,
        vocabulary: int,
        texts: Literal["learned", "plain", "rendered"],
    ) -> None:
        self._tokenizer, self._limit, self._vocabulary, self._texts = tokenizer, limit, vocabulary, texts
        if texts == "plain":
            self._neutral = neutral_of(tokenizer)
            return
        self._frame = frame_of(tokenizer)
        self._coder = Coder(tokenizer, is_framed=len(self._frame) > 0)

    def read(self, one: Input, field: str) -> np.ndarray:
        """Token ids, int32 [T]. Raises UserError, with the field, for what is empty, too long, or no token."""
        if isinstance(one, str):
            return self._checked(self._text(one), field)
        if isinstance(one, list):
            return self._checked(one, field)
        if self._texts == "plain":
            raise UserError("this model reads texts, not messages", field=field, expected="input")
        return self._checked(self._coded(Record(_REQUEST.file, 0, messages=one)), field)

    def answered(self, prompt: Any, completion: Any, field: str) -> np.ndarray:
        """Token ids, int32 [T], of a prompt, text or messages, and an answer to it, text or messages of the assistant:
        as a preference's answer is rendered in training."""
        is_text = isinstance(prompt, str) and isinstance(completion, str)
        plain = (text_in(_REQUEST, prompt, f"prompts.{field}"),) if is_text else ()
        asked = (Message("user", prompt),) if isinstance(prompt, str) else messages_in(prompt, f"prompts.{field}")
        if isinstance(completion, str):
            said: tuple[Message, ...] = (Message("assistant", text_in(_REQUEST, completion, f"completions.{field}")),)
        else:
            said = messages_in(completion, f"completions.{field}")
        if len(said) == 1 and said[0].role == "assistant" and not said[0].tool_calls:
            record = Record(_REQUEST.file, 0, prompt=Prompt(asked, plain), completion=said[0].content)
        else:
            record = Record(_REQUEST.file, 0, messages=(*asked, *said))
        return self._checked(self._coded(record), f"completions.{field}")

    def _text(self, text: str) -> Sequence[int] | np.ndarray:
        if self._texts == "learned":
            return self._coded(Record(_REQUEST.file, 0, text=text, label=""))
        if self._texts == "plain":
            found: list[int] = self._tokenizer(self._neutral(text), verbose=False)["input_ids"]
            return found
        begins: Any = self._tokenizer.bos_token
        is_begun = bool(begins) and text.startswith(begins)
        found = self._tokenizer(text, add_special_tokens=not is_begun, verbose=False)["input_ids"]
        return found

    def _coded(self, record: Record) -> np.ndarray:
        ((ids, mask),) = self._coder.code([record])
        return self._frame.around(ids, mask)[0]

    def _checked(self, ids: Sequence[int] | np.ndarray, field: str) -> np.ndarray:
        if not len(ids):
            raise UserError("an empty text", field=field)
        found = np.asarray(ids)
        check_ids(found, self._limit, self._vocabulary, field)
        return found.astype(np.int32)


def check_ids(ids: np.ndarray, limit: int, vocabulary: int, field: str) -> None:
    """Raises UserError, with the field, for more token ids, [T], than the model reads, and for one that is none."""
    if len(ids) > limit:
        raise UserError(f"{len(ids)} tokens; this model reads {limit} at most", field=field)
    if not 0 <= ids.min() <= ids.max() < vocabulary:  # on a GPU that would end the whole process
        raise UserError("a token that is none", field=field, expected=f"0 to {vocabulary - 1}")


def _are_tokens(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(one) is int for one in value)
