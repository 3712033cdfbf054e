"""What every scorer is, and what it is shown of a rollout."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Protocol

from fettle.data.record import Message, Record
from fettle.errors import UserError
from fettle.rl.rollout import Rollout


class Scorer(Protocol):
    """One part of the reward."""

    def score(self, rollouts: Sequence[Rollout], records: Sequence[Record]) -> list[float]:
        """A finite number for each rollout. records: of the iteration's prompts, at `rollout.prompt`.

        Raises UserError where there is none.
        """
        ...


@dataclass(frozen=True)
class Shown:
    """prompts: text where the prompt is text, else messages. completions: likewise, one message of the assistant.
    columns: what else the records hold, a list each, None where one lacks it; all [N], one for each rollout."""

    prompts: list[Any]
    completions: list[Any]
    columns: dict[str, list[Any]]


def shown(rollouts: Sequence[Rollout], records: Sequence[Record]) -> Shown:
    """What a function or a service is told of some rollouts."""
    own = [records[one.prompt] for one in rollouts]
    names = [name for name in dict.fromkeys(name for record in own for name in record.columns) if name not in _TAKEN]
    prompts = [_prompt(record) for record in own]
    completions = [
        one.text if isinstance(prompt, str) else [{"role": "assistant", "content": one.text}]
        for one, prompt in zip(rollouts, prompts, strict=True)
    ]
    return Shown(prompts, completions, {name: [record.columns.get(name) for record in own] for name in names})


_TAKEN = ("prompt", "prompts", "completions")


def checked(found: Any, num: int, who: str, **where: Any) -> list[float]:
    """`found` as `num` finite floats. Raises UserError, of `who` and with file, line and field, where it is not."""
    found = found.tolist() if hasattr(found, "tolist") else found
    expected = f"a list of {num} finite numbers, one for each answer"
    if not isinstance(found, (list, tuple)):
        raise UserError(f"{who} gave {_told(found)}", **where, expected=expected)
    if len(found) != num:
        raise UserError(f"{who} gave {len(found)} rewards for {num} answers", **where, expected=expected)
    values = [one.item() if hasattr(one, "item") else one for one in found]
    for place, value in enumerate(values):
        if not isinstance(value, Real) or not math.isfinite(value):
            raise UserError(f"{who} gave {_told(value)} as the reward of answer {place}", **where, expected=expected)
    return [float(value) for value in values]


def _told(value: Any) -> str:
    return repr(value) if isinstance(value, (int, float, str, type(None))) else f"a {type(value).__name__}"


def _prompt(record: Record) -> str | list[dict[str, Any]]:
    assert record.prompt is not None
    if record.prompt.plain:
        return "".join(record.prompt.plain)
    return [_message(turn) for turn in record.prompt.turns]


def _message(turn: Message) -> dict[str, Any]:
    told: dict[str, Any] = {"role": turn.role, "content": turn.content}
    if turn.tool_calls:
        told["tool_calls"] = list(turn.tool_calls)
    return told | {key: value for key in ("name", "tool_call_id") if (value := getattr(turn, key)) is not None}
