"""A share of a name's requests for a version that is not in production yet, and when that ends by itself."""

from __future__ import annotations

from dataclasses import dataclass

from fettle.errors import UserError
from fettle.registry.reference import PRODUCTION, check_alias

_LARGEST = 1e9


@dataclass(frozen=True)
class Canary:
    """Of requests for a bare name. alias: whose version gets them. percent: of the requests, 0 to 100. is_shadow: it
    gets copies of them, and nobody sees its answers. most_errors: share of its answers that may be errors of the
    server's; most_slowdown: how many times the seconds of production's 95th percentile its own may take; beyond one of
    them, after `least` answers, it is stopped. stopped: why it was, None while it runs.
    """

    alias: str
    percent: float
    is_shadow: bool = False
    most_errors: float = 0.05
    most_slowdown: float = 3.0
    least: int = 20
    stopped: str | None = None

    def __post_init__(self) -> None:
        check_alias(self.alias)
        if self.alias == PRODUCTION:
            raise UserError("production has all requests already", field="alias", expected="another alias")
        numbers = (self.percent, self.most_errors, self.most_slowdown, self.least)
        if not all(isinstance(one, (int, float)) and abs(one) < _LARGEST for one in numbers):  # nor inf, nor NaN
            raise UserError("a bound that is no number of this world", field="canary", expected="finite numbers")
        if not 0 < self.percent <= 100:
            raise UserError(f"{self.percent:g} percent", field="percent", expected="above 0, 100 at most")
        if not (0 <= self.most_errors <= 1 and self.most_slowdown >= 1 and self.least >= 1):
            raise UserError("a bound that makes no sense", field="canary", expected="errors 0 to 1, slowdown from 1")
