"""The formats fettle knows, by the columns a row must have; of those that fit, the first is taken."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fettle.data.formats.chats import from_messages, from_sharegpt
from fettle.data.formats.fields import Layout
from fettle.data.formats.labels import from_classification, from_text
from fettle.data.formats.preferences import (
    from_full_pair,
    from_pair,
    from_ranking,
    from_rejected_messages,
    from_rejected_response,
    from_stepwise,
    from_unpaired,
    is_full,
)
from fettle.data.formats.prompts import (
    from_alpaca,
    from_instances,
    from_prompt,
    from_prompt_completion,
    from_query_response,
)
from fettle.data.record import Record
from fettle.data.rows import Row
from fettle.recipe.data import FormatName

Names = tuple[str, ...]


@dataclass(frozen=True)
class Shape:
    """The columns of a format, or of one of its dialects. required, optional: those a row must and may have, each with
    every name it goes by; `to_record` finds it under the first. when: what the required ones must hold besides.
    note: what detection says about it.
    """

    name: FormatName
    required: tuple[Names, ...]
    optional: tuple[Names, ...]
    to_record: Callable[[Row, Layout], Record]
    when: Callable[[dict[str, Any]], bool] | None = None
    note: str = ""

    def columns_in(self, found: Mapping[str, str]) -> dict[str, str]:
        """The shape's name of each of its columns → the file's. found: every name a column goes by → the file's."""
        columns: dict[str, str] = {}
        for names in (*self.required, *self.optional):
            here = next((name for name in names if name in found and found[name] not in columns.values()), None)
            if here is not None:
                columns[names[0]] = found[here]
        return columns

    def lacking(self, columns: Mapping[str, str]) -> list[Names]:
        """The required columns that are not among `columns` (by the shape's names)."""
        return [names for names in self.required if names[0] not in columns]


def _is_ranked(columns: dict[str, Any]) -> bool:
    return isinstance(columns.get("answers", columns.get("output")), list)


def _is_scored(columns: dict[str, Any]) -> bool:
    answers = columns.get("answers", columns.get("output"))
    first = answers[0] if isinstance(answers, list) and answers else None
    return columns.get("scores") is not None or (isinstance(first, dict) and "score" in first)


_TURNS: Names = ("messages", "conversations", "conversation")
_INSTRUCTION: Names = ("instruction",)
_QUERY: Names = ("query", "prompt", "question", "problem", "instruction", "input")
_DOCUMENT: Names = ("query", "document", "article", "dialogue", "source")
_OUTPUT: Names = ("output", "response", "completion", "solution", "answer", "target")
_RESPONSE: Names = ("response", *_OUTPUT, "targets", "answers", "content")
_SUMMARY: Names = ("response", "summary", "highlights", "target", "targets")
_LABEL: Names = ("label", "kto_tag")
_CHAT: tuple[Names, ...] = (("system",), ("tools",))
_ALPACA: tuple[Names, ...] = (("input", "context"), ("history",), *_CHAT)
_ASKED: tuple[Names, ...] = (("context", "input"), ("history",), *_CHAT)
_JUDGED: tuple[Names, ...] = (
    ("margin",),
    ("score_chosen", "chosen_score"),
    ("score_rejected", "rejected_score"),
)
_PAIR: tuple[Names, ...] = (("chosen",), ("rejected",))
_RANKED = "its list of answers is taken as ranked, the best first"
_SCORED = "its answers are sorted by their scores"

# Judged answers come before plain ones, which would learn the bad ones too; what has most columns before what has
# fewer; raw text last, since published sets of every format carry a `text` column made from the others.
SHAPES: tuple[Shape, ...] = (
    Shape("stepwise", (_QUERY, ("completions",), ("labels",)), _ASKED, from_stepwise),
    Shape("preference", _PAIR, (*_CHAT, *_JUDGED), from_full_pair, is_full, "what both begin with is the prompt"),
    Shape("preference", (_TURNS, *_PAIR), (*_CHAT, *_JUDGED), from_pair),
    Shape("preference", (_INSTRUCTION, *_PAIR), (*_ALPACA, *_JUDGED), from_pair),
    Shape("preference", (_QUERY, *_PAIR), (*_ASKED, *_JUDGED), from_pair),
    Shape("preference", _PAIR, (*_CHAT, *_JUDGED), from_full_pair),
    Shape("preference", (_TURNS, ("rejected", "rejected_response")), (*_CHAT, ("margin",)), from_rejected_response),
    Shape("preference", (_TURNS, ("rejected", "rejected_messages")), (*_CHAT, ("margin",)), from_rejected_messages),
    Shape("preference", (_INSTRUCTION, ("output",)), (*_ALPACA, ("scores",)), from_ranking, _is_scored, _SCORED),
    Shape("preference", (_INSTRUCTION, ("output",)), _ALPACA, from_ranking, _is_ranked, _RANKED),
    Shape("preference", (_QUERY, ("output",)), (*_ASKED, ("scores",)), from_ranking, _is_scored, _SCORED),
    Shape("preference", (_QUERY, ("output",)), _ASKED, from_ranking, _is_ranked, _RANKED),
    Shape("preference", (_QUERY, ("answers",)), (*_ASKED, ("scores",)), from_ranking, _is_scored, _SCORED),
    Shape("preference", (("query", "prompt"), ("answers",)), _ASKED, from_ranking, _is_ranked, _RANKED),
    Shape("unpaired", (_TURNS, _LABEL), _CHAT, from_unpaired),
    Shape("unpaired", (_INSTRUCTION, ("completion", "output", "response"), _LABEL), _ALPACA, from_unpaired),
    Shape("unpaired", (_QUERY, ("completion", "output", "response"), _LABEL), _ASKED, from_unpaired),
    Shape("messages", (("messages",),), _CHAT, from_messages),
    Shape("sharegpt", (("conversations", "conversation", "messages"),), _CHAT, from_sharegpt),
    Shape("alpaca", (_INSTRUCTION, _OUTPUT), _ALPACA, from_alpaca),
    Shape("alpaca", (_INSTRUCTION, ("instances",)), (), from_instances),
    Shape("prompt_completion", (("prompt",), ("completion",)), (("tools",),), from_prompt_completion),
    Shape(
        "classification",
        (("text", "sentence", "review", "content"), ("label", "labels", "category", "class", "intent", "sentiment")),
        (),
        from_classification,
    ),
    Shape("query_response", (_QUERY, _RESPONSE), _ASKED, from_query_response),
    Shape("query_response", (_DOCUMENT, _SUMMARY), _ASKED, from_query_response),
    Shape("prompt", (("prompt",),), _CHAT, from_prompt, note="its other columns are for the reward function"),
    Shape("text", (("text",),), (), from_text),
)
