"""Two answers compared by a language model: what it is asked, and what its verdicts mean.

Zheng et al. 2023, "Judging LLM-as-a-Judge with MT-Bench and Chatbot Arena" (arXiv:2306.05685): pairwise comparison
(section 3.1), and both orders against position bias, where a win is one only if it is one in both (section 3.4).
"""

from __future__ import annotations

import re
from typing import Literal

Verdict = Literal["A", "B", "C"]
Outcome = Literal["won", "tied", "lost", "inconsistent", "unparsed"]

WORTH: dict[Outcome, float | None] = {"won": 1.0, "tied": 0.5, "lost": 0.0, "inconsistent": 0.5, "unparsed": None}
"""What a pair counts in the win rate; None: it is left out."""
_VERDICT = re.compile(r"\[\[(A|B|C)\]\]")
_MIRRORED: dict[Verdict, Verdict] = {"A": "B", "B": "A", "C": "C"}
_ASKED = """Two assistants have answered the same request. Decide which answer is the better one by this: {criteria}. \
Neither the order of the answers nor their length shall sway you. Explain in a few sentences, then end with your \
verdict on a line of its own: [[A]] if answer A is better, [[B]] if answer B is better, [[C]] if they are equally \
good."""


def question(request: str, first: str, second: str, criteria: str) -> str:
    """What a judge is asked of two answers, of which `first` is called A."""
    parts = {"request": request, "answer A": first, "answer B": second}
    shown = "\n\n".join(f"[Start of {name}]\n{text}\n[End of {name}]" for name, text in parts.items())
    return f"{_ASKED.format(criteria=criteria)}\n\n{shown}"


def verdict(answer: str) -> Verdict | None:
    """The one verdict in a judge's answer, what it has thought aloud left out; None where there is none, or several."""
    found = set(_VERDICT.findall(answer.rpartition("</think>")[2]))
    return found.pop() if len(found) == 1 else None


def outcome(as_first: Verdict | None, as_second: Verdict | None) -> Outcome:
    """How a pair went for an answer that was called A, and then B."""
    if as_first is None or as_second is None:
        return "unparsed"
    if as_first != _MIRRORED[as_second]:
        return "inconsistent"
    return "won" if as_first == "A" else "lost" if as_first == "B" else "tied"
