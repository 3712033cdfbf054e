"""Answers without what a right one may differ in: Rajpurkar et al. 2016, "SQuAD: 100,000+ Questions for Machine
Comprehension of Text", section 6.1, as in its authors' evaluate-v1.1.py."""

from __future__ import annotations

import re
import string
from collections import Counter

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(text: str) -> str:
    """The text in lower case, without ASCII punctuation, without the words a, an and the, words parted by one space.

    Where one of the two leaves nothing, it is not done: labels such as `A`, `+` and `?` stay apart, which they do not
    in SQuAD's own script.
    """
    text = text.lower().strip()
    text = text.translate(_NO_PUNCTUATION).strip() or text
    text = _ARTICLES.sub(" ", text).strip() or text
    return " ".join(text.split())


def token_f1(answer: str, wanted: str) -> float:
    """The harmonic mean of precision and recall of an answer's words, each as often as it is there, after
    `normalised`; 0 where they have none in common. Two texts without words are equal: 1 (SQuAD 2.0's rule)."""
    said, right = normalised(answer).split(), normalised(wanted).split()
    if not said or not right:
        return float(said == right)
    shared = sum((Counter(said) & Counter(right)).values())
    # 2PR / (P + R) with P = shared / said and R = shared / right.
    return 2 * shared / (len(said) + len(right))
