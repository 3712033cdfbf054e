"""A template writer: `[a|b]` chooses, `{bank}` draws a word, `{bank:slot}` draws once and remembers."""

from __future__ import annotations

import random
import re

from words import BANKS, NAME_ENDS, NAME_STARTS

CHOICE = re.compile(r"\[([^\[\]]*)\]")
BLANK = re.compile(r"\{([a-z_]+)(:[a-z0-9_]+)?\}")
SENTENCE_START = re.compile(r"(^|[.!?] \"?|\n\"?)([a-z])")
QUOTE_START = re.compile(r"([,:] \"|^\")([a-z])")
ARTICLE = re.compile(r"\b([Aa]) (?=[aeioAEIO]|u[^ns]|un[^i]|hour|eight|11\b|18\b|8\d?\b)")


class Writer:
    """Expands templates; one writer per document, so that remembered slots hold for the whole of it."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.slots: dict[str, str] = {}

    def say(self, *templates: str) -> str:
        """One of `templates` with every choice and blank filled, articles and capitals put right."""
        text = self.rng.choice(templates)
        while (found := CHOICE.search(text)) is not None:
            text = text[: found.start()] + self.rng.choice(found.group(1).split("|")) + text[found.end() :]
        text = BLANK.sub(self._blank, text)
        text = ARTICLE.sub(r"\1n ", text)
        text = SENTENCE_START.sub(lambda m: m.group(1) + m.group(2).upper(), text)
        return QUOTE_START.sub(lambda m: m.group(1) + m.group(2).upper(), text)

    def bind(self, **values: str) -> None:
        """Fix slots by hand: bind(he="she") makes `{it:he}` read "she" whatever the bank before the colon."""
        self.slots.update({":" + key: value for key, value in values.items()})

    def slot(self, name: str) -> str:
        """The text remembered for `name`; KeyError where nothing was drawn yet."""
        return self.slots[":" + name]

    def person(self, slot: str) -> None:
        """Bind a person: `slot` is the name, and `slot`he, `slot`his, `slot`him the pronouns."""
        girl = self.rng.random() < 0.5
        name = self.draw("girl" if girl else "boy")
        while name in self.slots.values():
            name = self.draw("girl" if girl else "boy")
        he, his, him = ("she", "her", "her") if girl else ("he", "his", "him")
        self.bind(**{slot: name, slot + "he": he, slot + "his": his, slot + "him": him})

    def draw(self, bank: str) -> str:
        """A fresh word of `bank`; numbers, clock times, years, prices and made-up names are computed."""
        rng = self.rng
        if bank == "place":
            return rng.choice(NAME_STARTS) + rng.choice(NAME_ENDS)
        if bank == "clock":
            return f"{rng.randint(5, 23)}:{rng.choice(('00', '15', '30', '45', '10', '20', '40', '50', '05', '25'))}"
        if bank == "small":
            return str(rng.randint(2, 20))
        if bank == "number":
            return str(rng.choice((rng.randint(10, 99), rng.randint(100, 999), rng.randint(2, 60) * 5)))
        if bank == "year":
            return str(rng.randint(1780, 2015))
        if bank == "price":
            return rng.choice(
                (f"{rng.randint(2, 90)} coins", f"{rng.randint(2, 60)} crowns", f"{rng.randint(1, 40)} pounds")
            )
        return rng.choice(BANKS[bank])

    def _blank(self, match: re.Match[str]) -> str:
        slot = match.group(2)
        if slot is None:
            return self.draw(match.group(1))
        if slot not in self.slots:
            self.slots[slot] = self.draw(match.group(1))
        return self.slots[slot]
