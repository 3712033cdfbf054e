"""How close answers are to the ones wanted: ROUGE and exact match, each a mean over the records with an interval.

ROUGE: Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries", section 2 and 3; the arithmetic is that of
Google's rouge-score.
"""

from __future__ import annotations

from collections.abc import Sequence

from rouge_score.rouge_scorer import RougeScorer

from fettle.evaluate.intervals import Score, with_interval
from fettle.recipe.evaluate import MetricName

_ROUGES = ("rouge1", "rouge2", "rougeL")


def scored(
    answers: Sequence[str], wanted: Sequence[Sequence[str]], metrics: Sequence[MetricName], seed: int = 0
) -> dict[str, Score]:
    """By name, `rouge1`, `rouge2`, `rougeL` and `exact_match` (those of `metrics`) of some answers, at least one; each
    between 0 and 1.

    wanted: of each record one or several right answers, of which the nearest counts. ROUGE is the F-measure, of words
    without punctuation and case, cut to their stems (Porter): 1 and 2 count single words and pairs, L the longest
    common subsequence. A match is exact but for white space around it.
    """
    each: dict[str, list[float]] = {}
    if "rouge" in metrics:
        scorer = RougeScorer(list(_ROUGES), use_stemmer=True)
        found = [scorer.score_multi(targets, answer) for targets, answer in zip(wanted, answers, strict=True)]
        each |= {name: [one[name].fmeasure for one in found] for name in _ROUGES}
    if "exact_match" in metrics:
        pairs = zip(wanted, answers, strict=True)
        each["exact_match"] = [float(answer.strip() in [one.strip() for one in targets]) for targets, answer in pairs]
    return {name: with_interval(values, seed) for name, values in each.items()}
