"""Built-in rewards, from an answer's text and tokens alone, and the column of the right answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal, InvalidOperation
from functools import partial

import numpy as np

from fettle.data.record import Record
from fettle.errors import UserError, did_you_mean
from fettle.recipe.rewards import RewardSpec
from fettle.rl.rollout import Rollout

_SIGN = r"(?:(?<![\w.)\]])[-+−])?"  # in 7-5 it is a minus, not the sign of 5
_NUMBER = re.compile(_SIGN + r"\$?(?:(?:\d{1,3}(?:,\d{3})+(?![\d])|\d+)(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?")
_MARK = "####"


class Builtin:
    """Scores each rollout by itself."""

    def __init__(self, spec: RewardSpec) -> None:
        self._one = _BUILTINS[str(spec.builtin)](spec)

    def score(self, rollouts: Sequence[Rollout], records: Sequence[Record]) -> list[float]:
        """Raises UserError where a record has no right answer."""
        return [self._one(one, records[one.prompt]) for one in rollouts]


def check_records(spec: RewardSpec, records: Iterable[Record]) -> None:
    """Raises UserError at the first record that lacks what the reward compares answers with."""
    if spec.builtin == "exact_number":
        for record in records:
            _right_number(record, str(spec.column))


def number_in(text: str) -> Decimal | None:
    """The number that a text gives as its result: the first after the last `####`, as in GSM8K (Cobbe et al. 2021,
    arXiv:2110.14168), else the last one. With commas between thousands, a dollar, a sign; None where there is none."""
    _, mark, tail = text.rpartition(_MARK)
    found = _NUMBER.findall(tail)
    if not found:
        return None
    try:
        return Decimal(found[0 if mark else -1].replace(",", "").replace("$", "").replace("−", "-"))
    except InvalidOperation:  # an exponent that no computer holds
        return None


def repeated_share(tokens: np.ndarray, n: int) -> float:
    """The share of n-grams that were there before: 1 − different ones / all; 0 where there are none. tokens: int [T].

    As in Yeo et al. 2025, arXiv:2502.03373, section on repetition.
    """
    if len(tokens) < n:
        return 0.0
    grams = np.lib.stride_tricks.sliding_window_view(tokens, n)
    return 1 - len(np.unique(grams, axis=0)) / len(grams)


def too_long(tokens: int, limit: int, cushion: int) -> float:
    """0 up to limit − cushion tokens, from there in a straight line to −1 at the limit, −1 beyond.

    Yu et al. 2025, DAPO, arXiv:2503.14476, equation 13.
    """
    return -min(1.0, max(0.0, (tokens - (limit - cushion)) / cushion))


def _exact_number(spec: RewardSpec, one: Rollout, record: Record) -> float:
    return float(number_in(one.text) == _right_number(record, str(spec.column)))


def _right_number(record: Record, column: str) -> Decimal:
    where = {"file": record.file, "line": record.line, "field": column}
    if column not in record.columns:
        near = did_you_mean(column, record.columns)
        raise UserError(
            f"this record has no column {column} for exact_number to compare with{near}",
            **where,  # type: ignore[arg-type]
            fix="name the column in the recipe: {builtin: exact_number, column: …}",
        )
    found = number_in(str(record.columns[column]))
    if found is None:
        said = str(record.columns[column])[:60]
        raise UserError(f"no number in {said!r}", **where, expected="a number, or GSM8K's `… #### 42`")  # type: ignore[arg-type]
    return found


def _format(tags: Sequence[str]) -> re.Pattern[str]:
    """An answer that is these tags, each once, in order, with nothing around them."""
    inside = r"(?:(?!</?(?:" + "|".join(map(re.escape, tags)) + r")>).)*"
    return re.compile(
        r"\s*" + r"\s*".join(f"<{re.escape(tag)}>{inside}</{re.escape(tag)}>" for tag in tags) + r"\s*", re.S
    )


def _matches(search: Callable[[str], object], one: Rollout, record: Record) -> float:
    return float(search(one.text) is not None)


def _length(spec: RewardSpec, one: Rollout, record: Record) -> float:
    assert spec.max_tokens is not None and spec.cushion is not None
    return too_long(one.num_loss_tokens, spec.max_tokens, spec.cushion)


def _repetition(spec: RewardSpec, one: Rollout, record: Record) -> float:
    assert spec.n is not None
    return -repeated_share(one.output_ids[one.mask], spec.n)


_Score = Callable[[Rollout, Record], float]
_BUILTINS: dict[str, Callable[[RewardSpec], _Score]] = {
    "exact_number": lambda spec: partial(_exact_number, spec),
    "regex": lambda spec: partial(_matches, re.compile(spec.pattern or "").search),
    "format": lambda spec: partial(_matches, _format(spec.tags or ()).fullmatch),
    "length": lambda spec: partial(_length, spec),
    "repetition": lambda spec: partial(_repetition, spec),
}
