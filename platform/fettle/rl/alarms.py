"""What the flight recorder warns of: rewards that are hacked, runs that learn nothing, a sampler that has come apart
from the learner."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean

from fettle.errors import FettleError
from fettle.rl.recorder import IterationRow

_Rows = Sequence[IterationRow]

_FEW, _SOME = 3, 5  # iterations whose mean stands for now, and for a beginning
_QUIET = 10  # iterations that must have passed without an alarm before it is said again: a noisy figure crosses often
_LENGTH_GROWTH, _LENGTH_MARGIN = 1.5, 8.0  # times the other's tokens, and so many tokens more
_REPETITION_RISE = 0.1  # of all n-grams
_KL_TIMES_TARGET, _KL_MOST = 3.0, 30.0  # nats an answer, the second without a target
_TRUNCATED = 0.3  # of all answers
_TREND, _LEAST_TREND = 30, 10  # iterations that a line is laid through
# One-sided chance of noise: 2e-3 with 10 iterations, 2e-4 with 30. Of 40 simulated runs of 500 iterations with a rising
# reward and a judge of pure noise two alarmed (2026-11); the usual 2 would alarm in most.
_SIGNIFICANT = 4.0


def alarms(rows: _Rows, kl_target: float | None = None) -> list[str]:
    """What is to be said after the newest iteration, which is the last of `rows`: each alarm when it begins.

    An alarm begins where it holds now and did not hold after any of the 10 iterations before. kl_target: of the recipe,
    in nats an answer.
    """
    if not rows:
        return []
    checks: list[Callable[[_Rows], str | None]] = [
        _answers_grow,
        _answers_shrink,
        _repetition_rises,
        partial(_kl_blows_up, target=kl_target),
        _nothing_to_learn,
        _too_many_truncated,
        *(partial(_judge_falls, name=name) for name in rows[-1].judges),
    ]
    said = [(check, check(rows)) for check in checks]
    return [sentence for check, sentence in said if sentence and not _held_before(check, rows)]


def check_gap(row: IterationRow, warn: float, stop: float) -> str | None:
    """A warning where sampler and learner differ by `warn` nats a token or more, None below it.

    Raises FettleError from `stop` on, and where the gap, a loss or the gradient is not finite. With rollouts of earlier
    weights the gap holds the steps in between too: then the difference on the fixed prompts has to be below `stop`.
    """
    broken = {"gap": row.gap["mean"], "loss": row.loss, "grad_norm": row.grad_norm, "value_loss": row.value_loss}
    names = [f"{name} {value}" for name, value in broken.items() if value is not None and not math.isfinite(value)]
    if names:
        raise FettleError(
            f"iteration {row.iteration}: not finite: {', '.join(names)}\n"
            "  likely causes: a learning rate that is too high; float16 where the model needs bfloat16\n"
            "  fix: look at the iterations before with `fettle rl show`; go on from the last checkpoint with a smaller"
            " lr or optimizer.max_grad_norm"
        )
    gap = row.gap["mean"]
    differ = (
        f"iteration {row.iteration}: the log-probabilities of sampler and learner differ by {gap:.3g} nats a token"
        f" (at most {row.gap['max']:.3g})"
    )
    is_stale = row.oldest_version < row.version
    if (row.probe if is_stale else gap) >= stop:
        raise FettleError(f"{differ}, and gap.stop is {stop:g}\n{_gap_causes(row)}")
    if gap >= warn:
        return (
            f"{differ}, and gap.warn is {warn:g}; at {stop:g} the run stops: compare the dtypes of engine and"
            " learner, lower max_staleness, or keep importance_cap"
        )
    return None


def _gap_causes(row: IterationRow) -> str:
    stale = row.version - row.oldest_version
    age = f"{stale} version{'s' if stale != 1 else ''} behind the learner" if stale else "as new as the learner"
    return (
        "  likely causes: the engine computes in another dtype than the learner; template or tokenizer differ, so that"
        " the learner sees other tokens; a sync failed (on the fixed prompts the engine was"
        f" {row.probe:.3g} nats off); stale weights (the oldest rollout's were {age})\n"
        "  fix: give engine and learner one dtype; lower max_staleness or lr; if it is above gap.stop in iteration 0"
        " already, suspect template, tokenizer and dtype; if only later, the sync"
    )


def _held_before(check: Callable[[_Rows], str | None], rows: _Rows) -> bool:
    return any(check(rows[:end]) for end in range(max(1, len(rows) - _QUIET), len(rows)))


def _lengths(rows: _Rows) -> tuple[float, float]:
    """In the first iterations and now."""
    return fmean(r.lengths["mean"] for r in rows[:_SOME]), fmean(r.lengths["mean"] for r in rows[-_SOME:])


def _is_longer(one: float, other: float) -> bool:
    return one > max(_LENGTH_GROWTH * other, other + _LENGTH_MARGIN)


def _answers_shrink(rows: _Rows) -> str | None:
    if len(rows) < 2 * _SOME:
        return None
    first, now = _lengths(rows)
    if not _is_longer(first, now):
        return None
    return (
        f"answers have shrunk from {first:.0f} to {now:.0f} tokens since the first iterations: read some; if they say"
        " less for it, the reward likes what is short: add one for what shall be said, or raise kl.coef"
    )


def _answers_grow(rows: _Rows) -> str | None:
    if len(rows) < 2 * _SOME:
        return None
    first, now = _lengths(rows)
    if not _is_longer(now, first):
        return None
    return (
        f"answers have grown from {first:.0f} to {now:.0f} tokens since the first iterations: read some; if they are no"
        " better for it, add the reward {builtin: length}, or take the algorithm dr_grpo"
    )


def _repetition_rises(rows: _Rows) -> str | None:
    if len(rows) < 2 * _SOME:
        return None
    first, now = fmean(r.repetition for r in rows[:_SOME]), fmean(r.repetition for r in rows[-_SOME:])
    if not now > first + _REPETITION_RISE:
        return None
    return (
        f"{now:.0%} of the n-grams in an answer are repeated, {first:.0%} in the first iterations: add the reward"
        " {builtin: repetition}, or raise kl.coef"
    )


def _kl_blows_up(rows: _Rows, target: float | None) -> str | None:
    if len(rows) < 2 * _FEW:
        return None
    now = fmean(row.kl["answer"] for row in rows[-_FEW:])
    before = fmean(row.kl["answer"] for row in rows[-2 * _FEW : -_FEW])
    bound = _KL_MOST if target is None else _KL_TIMES_TARGET * target
    if not (now > bound and now > before):
        return None
    against = (
        f"more than {bound:g}" if target is None else f"more than {_KL_TIMES_TARGET:g} times the target {target:g}"
    )
    return (
        f"the policy is {now:.1f} nats an answer from its reference, {against}, and {before:.1f} {_FEW} iterations ago:"
        " read some answers; lower lr, or raise kl.coef"
    )


def _nothing_to_learn(rows: _Rows) -> str | None:
    if len(rows) < _FEW or not all(row.alike >= 1 for row in rows[-_FEW:]):
        return None
    return (
        f"for {_FEW} iterations all answers to a prompt have been rewarded alike (reward {rows[-1].reward:.3g}), and"
        " nothing is learned: check the reward on a few answers; take prompts that are answered right sometimes, more"
        " samples_per_prompt, or a higher temperature"
    )


def _too_many_truncated(rows: _Rows) -> str | None:
    if len(rows) < _FEW:
        return None
    now = fmean(row.lengths["truncated"] for row in rows[-_FEW:])
    if not now > _TRUNCATED:
        return None
    return (
        f"{now:.0%} of the answers are broken off (the longest has {rows[-1].lengths['max']:.0f} tokens): raise"
        " rollout.max_new_tokens, reward shorter answers with {builtin: length}, or keep them out with"
        " algorithm: {truncated: mask}"
    )


def _judge_falls(rows: _Rows, name: str) -> str | None:
    recent = rows[-_TREND:]
    if len(recent) < _LEAST_TREND:
        return None
    reward = _trend([row.reward for row in recent])
    judge = _trend([row.judges.get(name, math.nan) for row in recent])
    if not (reward.t > _SIGNIFICANT and judge.t < -_SIGNIFICANT):
        return None
    return (
        f"over {len(recent)} iterations the reward has risen from {reward.first:.3g} to {reward.last:.3g} while the"
        f" judge {name} has fallen from {judge.first:.3g} to {judge.last:.3g}: the reward is likely being hacked; read"
        " the best rewarded answers, stop at an earlier checkpoint, raise kl.coef, or mend the reward"
    )


@dataclass(frozen=True)
class _Trend:
    """The least-squares line through values. first, last: its ends. t: its slope over the slope's standard error."""

    first: float
    last: float
    t: float


def _trend(values: Sequence[float]) -> _Trend:
    """t is NaN where a value is; 0 of values that are all the same."""
    n, mean, middle = len(values), fmean(values), (len(values) - 1) / 2
    spread = n * (n * n - 1) / 12  # Σ (i − middle)²
    slope = sum((i - middle) * (value - mean) for i, value in enumerate(values)) / spread
    first, last = mean - slope * middle, mean + slope * middle
    if max(values) - min(values) <= 1e-9 * max(1.0, abs(mean)):
        return _Trend(first, last, 0.0)  # rounding errors would have a slope
    left = sum((value - first - slope * i) ** 2 for i, value in enumerate(values))
    error = math.sqrt(left / (n - 2) / spread)
    return _Trend(first, last, slope / error if error else math.copysign(math.inf, slope))
