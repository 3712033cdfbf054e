"""How close answers are to the ones wanted, by words alone, each a mean over the records with an interval.

ROUGE: Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries", section 2 and 3; the arithmetic is that of
Google's rouge-score. `accuracy` and `f1`: Rajpurkar et al. 2016, "SQuAD: 100,000+ Questions for Machine Comprehension
of Text", section 6.1.
"""

from __future__ import annotations

from collections.abc import Sequence

from rouge_score.rouge_scorer import RougeScorer

from fettle.evaluate.intervals import Score, with_interval
from fettle.evaluate.normalised import normalised, token_f1
from fettle.recipe.evaluate import MetricName

_ROUGES = ("rouge1", "rouge2", "rougeL")


def scored(
    answers: Sequence[str],
    wanted: Sequence[Sequence[str]],
    metrics: Sequence[MetricName],
    seed: int = 0,
    found: Sequence[bool | None] = (),
) -> dict[str, Score]:
    """By name, `rouge1`, `rouge2`, `rougeL`, `exact_match`, `accuracy`, `f1` and `regex` (those of `metrics`) of some
    answers, at least one; each between 0 and 1.

    wanted: of each record one or several right answers, of which the nearest counts. ROUGE is the F-measure, of words
    without punctuation and case, cut to their stems (Porter): 1 and 2 count single words and pairs, L the longest
    common subsequence. An exact match is exact but for white space around it; accuracy and F1 compare what
    `normalised` leaves of both. regex: the share of those in which `found` (`found_in`) says the pattern is.
    """
    each: dict[str, list[float]] = {}
    pairs = list(zip(answers, wanted, strict=True))
    if "rouge" in metrics:
        scorer = RougeScorer(list(_ROUGES), use_stemmer=True)
        compared = [scorer.score_multi(right, answer) for answer, right in pairs]
        each |= {name: [one[name].fmeasure for one in compared] for name in _ROUGES}
    if "exact_match" in metrics:
        each["exact_match"] = [float(answer.strip() in [one.strip() for one in right]) for answer, right in pairs]
    if "accuracy" in metrics:
        each["accuracy"] = [float(normalised(answer) in map(normalised, right)) for answer, right in pairs]
    if "f1" in metrics:
        each["f1"] = [max(token_f1(answer, one) for one in right) for answer, right in pairs]
    if "regex" in metrics:
        each["regex"] = [float(is_there or False) for _, is_there in zip(answers, found, strict=True)]
    return {name: with_interval(values, seed) for name, values in each.items()}
