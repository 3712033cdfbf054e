"""Rewards from a service: HTTP with time-outs and retries, then a clear stop."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence

import requests

from fettle.data.record import Record
from fettle.errors import UserError
from fettle.recipe.rewards import RewardSpec
from fettle.rl.rewards.scorer import checked, shown
from fettle.rl.rollout import Rollout

_FIRST_WAIT_S = 1.0
_WORTH_ANOTHER = (408, 429)


class ServiceScorer:
    """POST `{"prompts": […], "completions": […], "columns": {…}}`, answered by `{"scores": […]}`.

    What may pass (no answer in time, no connection, 5xx, 408, 429) is tried again, after 1, 2, 4, … seconds; what will
    not (another 4xx, an answer that holds no scores) ends the run at once.
    """

    def __init__(self, spec: RewardSpec, *, wait: Callable[[float], None] = time.sleep) -> None:
        assert spec.url is not None and spec.timeout_s is not None and spec.tries is not None
        self.url, self.timeout_s, self.tries, self._wait = spec.url, spec.timeout_s, spec.tries, wait
        self._headers = {"Content-Type": "application/json"}
        if spec.key_env is not None:
            if not (key := os.environ.get(spec.key_env)):
                raise UserError(
                    f"the environment variable {spec.key_env} is not set, and {spec.url} is to get its value as a key",
                    field="key_env",
                    fix=f"export {spec.key_env}=… where the workers start",
                )
            self._headers["Authorization"] = f"Bearer {key}"

    def score(self, rollouts: Sequence[Rollout], records: Sequence[Record]) -> list[float]:
        """Raises UserError with the address, the number of tries and the last error."""
        told = shown(rollouts, records)
        # Columns may hold what JSON has no word for, such as dates from Parquet.
        body = json.dumps(
            {"prompts": told.prompts, "completions": told.completions, "columns": told.columns}, default=str
        ).encode()
        last = ""
        for number in range(self.tries):
            if number:
                self._wait(_FIRST_WAIT_S * 2 ** (number - 1))
            try:
                answer = requests.post(self.url, data=body, headers=self._headers, timeout=self.timeout_s)
            except (requests.ConnectionError, requests.Timeout) as error:
                last = _said(error, self.timeout_s)
                continue
            if answer.status_code >= 500 or answer.status_code in _WORTH_ANOTHER:
                last = f"{answer.status_code} {answer.reason}: {answer.text[:200]}"
                continue
            return self._scores(answer, len(rollouts))
        raise UserError(
            f"the reward service {self.url} failed {self.tries} times; at last: {last}",
            fix="see that it runs, then run again: the run goes on where it was (timeout_s, tries: how long to wait)",
        )

    def _scores(self, answer: requests.Response, num: int) -> list[float]:
        who = f"the reward service {self.url}"
        if answer.status_code != 200:
            raise UserError(f"{who} refused: {answer.status_code} {answer.reason}: {answer.text[:200]}")
        try:
            found = answer.json()
        except ValueError:
            found = None
        if not isinstance(found, dict) or "scores" not in found:
            raise UserError(f"{who} answered {answer.text[:200]!r}", expected='{"scores": [0.5, …]}')
        return checked(found["scores"], num, who)


def _said(error: requests.RequestException, timeout_s: float) -> str:
    if isinstance(error, requests.Timeout):
        return f"no answer within {timeout_s:g} s"
    return f"no connection ({error})"
