"""Non-fiction: profiles in prose, how-to texts, letters, dialogues, lists, sums, tables in words, descriptions."""

# ruff: noqa: E501  (one template, one line: a wrapped template is hard to read)

from __future__ import annotations

from collections.abc import Callable

from grammar import Writer
from profiles import profile

ONES = (
    ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
    + [n + "teen" for n in ("thir", "four", "fif", "six", "seven", "eigh", "nine")]
)  # fmt: skip
TENS = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]


def in_words(number: int) -> str:
    """A number from 0 to 999 in English words."""
    if number < 20:
        return ONES[number]
    if number < 100:
        return TENS[number // 10] + ("-" + ONES[number % 10] if number % 10 else "")
    rest = number % 100
    return ONES[number // 100] + " hundred" + (" and " + in_words(rest) if rest else "")


def intro(kind: str, w: Writer) -> str:
    """The sentence that says what the thing named in slot `n` is."""
    return {
        "business": w.say(
            "{it:n} is a {adj} {shopkind:k} in {place:town}.",
            "{it:n} is a {shopkind:k} run by the {surname:sn} family.",
            "welcome to {it:n}, the {shopkind:k} in {place:town}!",
        ),
        "place": w.say(
            "{it:n} is a {adj} town with a {landmark} and a {landmark}.",
            "{it:n} is a small town in the {way}.",
            "not many people know {it:n}.",
        ),
        "animal": w.say(
            "the {it:n} is a {adj} animal.", "few people have seen the {it:n}.", "the {it:n} is a kind of {animal:k}."
        ),
        "tool": w.say(
            "the {it:n} is a {adj} tool.", "every workshop should have a {it:n}.", "the {it:n} is a simple machine."
        ),
        "line": w.say(
            "{it:n} is a {vehicle:v} service.",
            "this is the timetable of {it:n}.",
            "information about {it:n}, the {vehicle:v} from {place:from} to {place:to}.",
        ),
    }[kind]


def profile_page(w: Writer) -> str:
    """A paragraph (or handbook section) on one made-up thing, sometimes followed by its questions and answers."""
    item = profile(w, w.rng.randint(3, 8))
    body = " ".join([intro(item.kind, w), *item.statements])
    style = w.rng.random()
    if style < 0.2 and item.questions:
        asked = w.rng.sample(item.questions, min(3, len(item.questions)))
        return body + "\n\n" + "\n".join(f"Question: {q}\nAnswer: {a}" for q, a in asked)
    if style < 0.35:
        return (
            item.name[0].upper()
            + item.name[1:]
            + "\n\n"
            + intro(item.kind, w)
            + "\n"
            + "\n".join("- " + s for s in item.statements)
        )
    if style < 0.5:
        return w.say("[about|facts about|notes about|a short guide to|all about] ") + item.name + "\n\n" + body
    return body


def how_to(w: Writer) -> str:
    """Numbered or linked steps."""
    w.rng.shuffle(steps := [
        w.say("take a {adj} {thing:t} and put it {wherefound}.", "first find a {thing:t}. a {adj} one is best."),
        w.say("wash the {food:f} with {clean}.", "cut the {food:f} into small pieces.", "mix the {food:f} with some {food}."),
        w.say("wait for {small} minutes.", "let it rest until the {daytime}.", "leave it {wherefound} for {small} hours."),
        w.say("ask a {friendkind} to hold the {material} part.", "hold it with both hands.", "do this {adverb}."),
        w.say("clean everything with {clean}.", "dry it with a cloth.", "put the tools back in the {thing}."),
        w.say("count to {small}.", "turn it {small} times to the [left|right].", "stir it {adverb}."),
    ])  # fmt: skip
    steps = steps[: w.rng.randint(3, 6)]
    title = w.say(
        "how to {skill:s}",
        "how to {chore:c}",
        "how to prepare {food:f}",
        "how to look after a {animal}",
        "how to make a {thing:t} out of {material:m}",
    )
    end = w.say(
        "now it is ready.",
        "that is all.",
        "if it does not work, start again.",
        "[with a little practice|after {small} times] it is easy.",
    )
    if w.rng.random() < 0.5:
        return f"{title}\n\n" + "\n".join(f"{n}. {step}" for n, step in enumerate(steps, 1)) + f"\n\n{end}"
    links = ["First", "Then", "After that", "Next", "Now", "At the end"]
    return (
        f"{title}\n\n"
        + " ".join(f"{link}, {s[0].lower() + s[1:]}" for link, s in zip(links, steps, strict=False))
        + f" {end}"
    )


def letter(w: Writer) -> str:
    """A short letter or note."""
    w.person("f")
    w.person("h")
    return "\n\n".join([
        w.say("dear {it:f},", "dear {elder},", "hello {it:f},", "dear Mr {surname},", "dear Mrs {surname},"),
        " ".join([
            w.say("[thank you|many thanks] for the {adj} {thing}. I [like it very much|use it every day|have put it {wherefound}].", "I am writing to you from {place:town}. the weather is {weather}.", "I am sorry that I could not come on {day}. I had to {chore}.", "I would like to order {small} {goods:g}. please send them to {place:town}."),
            w.say("yesterday I was {doing} {where}, and I saw a {adj} {animal}.", "we have {food} and {food} every {daytime}.", "my {elder} is {mood} and sends you good wishes.", "I have learned to {skill}.", "the {goods} you sent in {month} were [very good|not so good|too late]."),
            w.say("please write to me soon.", "I hope to see you in {month}.", "can you come on {day} at {clock}?", "please tell me how much it costs.", "we will meet {where} at {clock}.", "do you still have the {colour} {thing}?"),
        ]),
        w.say("[yours|best wishes|with love|kind regards|your {friendkind}],\n{it:h}"),
    ])  # fmt: skip


def dialogue(w: Writer) -> str:
    """Two people talk about a plan, a price or the weather."""
    w.person("a")
    w.person("b")
    turns = [
        (
            w.say("good {daytime:x}, {it:b}. how are you?", "hello {it:b}, what are you doing?"),
            w.say("I am {mood}, thank you.", "I am {doing}.", "not so good. I am {badmood}."),
        ),
        (
            w.say("do you like {food:f}?", "would you like some {food:f}?"),
            w.say("yes, I like {food:f} very much.", "no, thank you. I like {food} better."),
        ),
        (
            w.say("when do we meet on {day:d}?", "shall we meet on {day:d}?"),
            w.say("we meet at {clock} {where}.", "yes, {where} at {clock}.", "on {day:d} I have to {chore}."),
        ),
        (
            w.say("how much is the {colour:c} {thing:t}?", "what does this {thing:t} cost?"),
            w.say("it costs {price}.", "the {colour:c} one is {price}."),
        ),
        (
            w.say("where is my {thing:u}?", "have you seen my {thing:u}?"),
            w.say("it is {wherefound}.", "I saw it {wherefound}.", "no, I have not seen it."),
        ),
        (
            w.say("can you {skill:s}?", "did you learn to {skill:s}?"),
            w.say(
                "yes, I can. my {elder} taught me.", "no, I cannot {skill:s} yet.", "not yet, but I try every {day}."
            ),
        ),
        (
            w.say("what is the weather like?", "is it {weather:w} today?"),
            w.say("it is {weather} and {weather}.", "no, it is {weather}."),
        ),
    ]
    chosen = w.rng.sample(turns, w.rng.randint(2, 4))
    return "\n".join(w.say(f"{{it:a}}: {q}\n{{it:b}}: {a}") for q, a in chosen)


def sums(w: Writer) -> str:
    """Sums, counting and numbers in words."""
    rng = w.rng
    lines = []
    for _ in range(rng.randint(3, 8)):
        a, b = rng.randint(0, 20), rng.randint(0, 20)
        lines.append(rng.choice((
            f"{a} + {b} = {a + b}", f"{a + b} - {a} = {b}", f"{in_words(a)} plus {in_words(b)} is {in_words(a + b)}.",
            f"{in_words(a + b)} minus {in_words(a)} is {in_words(b)}.", f"{a + b} is more than {a}." if b else f"{a} is equal to {a + b}.",
            f"The number {a * b} is {in_words(a * b)} in words.", f"{a} times {b % 10} is {a * (b % 10)}.",
        )))  # fmt: skip
    if rng.random() < 0.3:
        start, step = rng.randint(0, 40), rng.choice((1, 1, 2, 5, 10))
        count = [start + step * i for i in range(rng.randint(5, 12))]
        lines.append("Counting: " + ", ".join(map(str, count) if rng.random() < 0.6 else map(in_words, count)) + ".")
    if rng.random() < 0.4:
        w.person("h")
        a, b, c = rng.randint(2, 12), rng.randint(1, 9), rng.randint(0, 2)
        lines.append(
            w.say(
                f"{{it:h}} has {a} [{{fruit}}|coins|cards]. [{{it:hhe}} gets|{{elder}} gives {{it:hhim}}] {b} more. now {{it:hhe}} has {a + b}."
            )
        )
        if c:
            lines.append(w.say(f"then {{it:hhe}} gives away {c}. {{it:hhe}} has {a + b - c} left."))
    return "\n".join(lines)


def listing(w: Writer) -> str:
    """A list of things, or a small table told in words."""
    rng = w.rng
    if rng.random() < 0.5:
        bank = rng.choice(("food", "animal", "thing", "colour", "goods", "chore", "material", "job"))
        title = {
            "food": "shopping list",
            "chore": "things to do on {day}",
            "goods": "in our shop",
            "job": "work in {place}",
        }.get(bank, bank + "s")
        items = list(dict.fromkeys(w.draw(bank) for _ in range(rng.randint(3, 7))))
        if rng.random() < 0.5:
            return w.say(title).capitalize() + ":\n" + "\n".join(f"- {item}" for item in items)
        return w.say(title).capitalize() + ": " + ", ".join(items[:-1]) + " and " + items[-1] + "."
    rows = [(w.draw("day"), w.draw("place"), w.draw("clock"), w.draw("price")) for _ in range(rng.randint(2, 5))]
    form = rng.choice(
        (
            "On {0} the trip goes to {1} at {2} and costs {3}.",
            "{0}: {1}, {2}, {3}",
            "{1} | {0} | {2} | {3}",
            "The visit to {1} is on {0} at {2}; the price is {3}.",
        )
    )
    return (
        w.say("plan of trips", "timetable", "our plan for {season}", "dates and prices")
        + "\n\n"
        + "\n".join(form.format(*row) for row in rows)
    )


def description(w: Writer) -> str:
    """A description of an everyday thing, a day or a room."""
    return " ".join(w.rng.sample([
        w.say("a {thing:t} is [a useful thing|something you find in many houses].", "everybody knows what a {thing:t} is.", "on the table there is a {adj} {thing:t}."),
        w.say("it is often made of {material}, but some are made of {material}.", "this one is {colour} and {shape}."),
        w.say("you can buy one for {price} in {place}.", "it [was made|was bought] by a {trait} {job} in {year}."),
        w.say("when it is {weather}, people like to stay at home and eat {food}.", "in {season} the days are {weather} and {weather}."),
        w.say("a {animal:an} is {adj} and likes {food}.", "the {animal:an} sleeps {wherefound}.", "next to it sits a {colour} {animal:an}."),
        w.say("every {daytime}, a {job} works {adverb}.", "the {job} comes at {clock} and leaves at {clock}.", "a good {job} must be {trait} and {trait}."),
        w.say("there are {small} chairs and a {adj} lamp in the room.", "through the window you can see a {landmark} and {small} trees."),
        w.say("I like {food:lf} because it is {adj}.", "many people like {topic}, and some like {topic} more."),
    ], w.rng.randint(3, 6)))  # fmt: skip


PAGES: tuple[tuple[int, Callable[[Writer], str]], ...] = (
    (40, profile_page), (10, how_to), (10, letter), (10, dialogue), (8, sums), (7, listing), (10, description),
)  # fmt: skip


def page(w: Writer) -> str:
    """One page of non-fiction."""
    (write,) = w.rng.choices([write for _, write in PAGES], [weight for weight, _ in PAGES])
    return write(w)
