"""Conversations: reading, everyday knowledge, sums, small writing tasks, small talk."""

# ruff: noqa: E501  (one template, one line: a wrapped template is hard to read)

from __future__ import annotations

from collections.abc import Callable

from grammar import Writer
from pages import in_words, intro, letter
from profiles import profile
from stories import story
from words import BANKS, KNOWN_THINGS, OPPOSITES, SOUNDS

Messages = list[dict[str, str]]
DAYS, MONTHS = BANKS["day"], BANKS["month"]


def _turns(*texts: str) -> Messages:
    return [{"role": "user" if i % 2 == 0 else "assistant", "content": text} for i, text in enumerate(texts)]


def reading(w: Writer) -> Messages:
    """Questions on a paragraph that the user gives, or that the system message or a tool holds."""
    item = profile(w, w.rng.randint(2, 5))
    text = " ".join([intro(item.kind, w), *item.statements])
    if not item.questions:
        return small_talk(w)
    asked = w.rng.sample(item.questions, min(len(item.questions), w.rng.choice((1, 1, 2))))
    rest = _turns(*(part for pair in asked for part in pair))
    how = w.rng.random()
    if how < 0.25:
        return [
            {
                "role": "system",
                "content": w.say("you are a helpful assistant. use this text: ", "answer from this text. ", "") + text,
            },
            *rest,
        ]
    if how < 0.35:
        call = {
            "role": "assistant",
            "content": w.say("let me look that up.", "I will look at the notes.", "one moment, please."),
        }
        return [rest[0], call, {"role": "tool", "content": text}, *rest[1:]]
    first = w.say("[read this text|here is a text|look at this text]: ", "text: ", "") + text
    rest[0] = {
        "role": "user",
        "content": first + w.rng.choice(("\n\n", " ", "\n", "\nQuestion: ")) + rest[0]["content"],
    }
    return rest


def closed_book(w: Writer) -> Messages:
    """Questions on something made up, with no text given: the answer can only be guessed."""
    item = profile(w, 3)
    if not item.questions:
        return small_talk(w)
    asked = w.rng.sample(item.questions, min(len(item.questions), w.rng.choice((1, 1, 2))))
    system = (
        [{"role": "system", "content": w.say("you work for {it:n}. [be polite.|answer in one sentence.|]").strip()}]
        if w.rng.random() < 0.2
        else []
    )
    return system + _turns(*(part for pair in asked for part in pair))


def knowledge(w: Writer) -> Messages:
    """Everyday things, opposites, animal sounds, days, months, spelling."""
    rng = w.rng
    kind = rng.randrange(7)
    if kind == 0:
        name, what, use = rng.choice(KNOWN_THINGS)
        w.bind(n=name, what=what, use=use)
        return _turns(*rng.choice((
            (w.say("what is a {it:n}?", "can you tell me what a {it:n} is?", "please explain the word {it:n}."), w.say("a {it:n} is {it:what}. it is used for {it:use}.", "a {it:n} is {it:what}.")),
            (w.say("what is a {it:n} [used|good] for?", "what do people do with a {it:n}?", "why do people need a {it:n}?"), w.say("a {it:n} is used for {it:use}.", "people use a {it:n} for {it:use}.")),
        )))  # fmt: skip
    if kind == 1:
        a, b = rng.choice(OPPOSITES)
        return _turns(
            w.say(f"what is the opposite of {a}?", f"tell me the opposite of {a}."),
            w.say(f"the opposite of {a} is {b}."),
        )
    if kind == 2:
        animal, sound = rng.choice(SOUNDS)
        return _turns(
            w.say(f"what does a {animal} say?", f"which sound does a {animal} make?"),
            w.say(f"a {animal} says {sound}.", f"it says {sound}."),
        )
    if kind == 3:
        names, word = rng.choice(((DAYS, "day"), (MONTHS, "month")))
        i = rng.randrange(len(names))
        after = rng.random() < 0.6
        other = names[(i + (1 if after else -1)) % len(names)]
        side = "after" if after else "before"
        return _turns(
            w.say(f"which {word} comes {side} {names[i]}?", f"what is the {word} {side} {names[i]}?"),
            w.say(f"{other} comes {side} {names[i]}.", f"the {word} {side} {names[i]} is {other}."),
        )
    if kind == 4:
        word = w.draw(rng.choice(("animal", "colour", "season", "job")))
        return _turns(w.say(f"how do you spell {word}?", f"spell the word {word}."), "-".join(word) + ".")
    if kind == 5:
        bank = rng.choice(("animal", "colour", "food", "season", "day", "material", "job", "month"))
        few = rng.sample(BANKS[bank], rng.randint(2, 4))
        plural = {"food": "foods", "day": "days of the week"}.get(bank, bank + "s")
        return _turns(
            w.say(
                f"name {in_words(len(few))} {plural}.",
                f"can you tell me {in_words(len(few))} {plural}?",
                f"give me {len(few)} {plural}.",
            ),
            w.say(f"[here are {in_words(len(few))} {plural}: |]{', '.join(few[:-1])} and {few[-1]}."),
        )
    n = rng.randint(0, 200)
    return _turns(
        w.say(f"how do I write {n} in words?", f"what is {n} in words?"),
        w.say(f"{n} is {in_words(n)}.", f"{in_words(n)}."),
    )


def arithmetic(w: Writer) -> Messages:
    """Small sums, plain or told as a story."""
    rng = w.rng
    a, b = rng.randint(0, 12), rng.randint(0, 12)
    w.person("h")
    things = rng.choice((w.draw("fruit"), "coins", "cards", "books", "stones"))
    return _turns(*rng.choice((
        (w.say(f"what is {a} plus {b}?", f"how much is {a} + {b}?", f"{a} + {b}"), w.say(f"{a} plus {b} is {a + b}.", f"{a} + {b} = {a + b}.")),
        (w.say(f"what is {a + b} minus {a}?", f"how much is {a + b} - {a}?"), w.say(f"{a + b} minus {a} is {b}.")),
        (w.say(f"{{it:h}} has {a} {things} and gets {b} more. how many {things} does {{it:hhe}} have now?"), w.say(f"{{it:h}} has {a + b} {things} now.", f"now {{it:hhe}} has {a + b} {things}.")),
        (w.say(f"which number is bigger, {a} or {a + b + 1}?"), w.say(f"{a + b + 1} is bigger than {a}.")),
        (w.say(f"count from {a} to {a + 5}."), ", ".join(str(a + i) for i in range(6)) + "."),
    )))  # fmt: skip


def writing(w: Writer) -> Messages:
    """Write, shorten, list, or reword something."""
    kind = w.rng.randrange(5)
    if kind == 0:
        text = story(w)
        w.bind(x=w.slot("h"))
        return _turns(
            w.say(
                "[write|tell me] a [short |]story about {it:x}.",
                "please tell a story about a [person|child] called {it:x}.",
            ),
            text,
        )
    if kind == 1:
        text = letter(w)
        return _turns(
            w.say("[write|please write] a short letter from {it:h}.", "can you write a letter for {it:h}?"), text
        )
    item = profile(w, w.rng.randint(2, 4))
    head, text = intro(item.kind, w), " ".join(item.statements)
    if kind == 2:
        return _turns(
            w.say("[summarise|sum up] [this|the] text[ in one sentence|]: ", "what is this text about? ")
            + head
            + " "
            + text,
            item.statements[0] if w.rng.random() < 0.3 else head,
        )
    if kind == 3:
        return _turns(
            w.say("[list the facts|make a list] from this text: ", "write this as a list: ") + text,
            "\n".join("- " + s for s in item.statements),
        )
    w.person("c")
    said = w.say(
        "{it:c} likes to {skill:s}.",
        "{it:c} has a {adj:a} {thing:t}.",
        "{it:c} lives in {place:town}.",
        "{it:c} wants to {chore:s}.",
    )
    ask, answer = w.rng.choice(
        (
            ("repeat this sentence: ", said),
            ("who is this sentence about? ", w.say("it is about {it:c}.", "the sentence is about {it:c}.")),
            ("write this in capital letters: ", said.upper()),
        )
    )
    return _turns(w.say(ask) + said, answer)


def small_talk(w: Writer) -> Messages:
    """Greetings, thanks, likes, advice."""
    turns = [
        (
            w.say("hello!", "good {daytime}!", "hi, how are you?", "hello, can you help me?"),
            w.say("hello! how can I help you?", "good day! what can I do for you?", "hello! I am here to help."),
        ),
        (
            w.say("who are you?", "what are you?", "what can you do?"),
            w.say(
                "I am a small language model. I can answer simple questions.",
                "I am a helper that answers questions in short sentences.",
            ),
        ),
        (
            w.say("thank you!", "thanks a lot.", "that was helpful, thank you."),
            w.say("you are welcome!", "I was glad to help.", "you are welcome. have a good day!"),
        ),
        (
            w.say("what should I do when I am {badmood:b}?", "I am {badmood:b}. what can I do?"),
            w.say(
                "when you are {badmood:b}, you can {skill} or talk to a {friendkind}.",
                "I am sorry that you are {badmood:b}. maybe a cup of tea and some {food} will help.",
            ),
        ),
        (
            w.say("what should I wear when it is {weather:ww}?", "it is {weather:ww}. what should I take?"),
            w.say("when it is {weather:ww}, take a coat and a {thing}.", "take an umbrella and wear good shoes."),
        ),
        (
            w.say("what can I cook with {food:f1} and {food:f2}?"),
            w.say(
                "you can make a {adj} soup with {food:f1} and {food:f2}.",
                "mix the {food:f1} with the {food:f2} and cook them for {small} minutes.",
            ),
        ),
        (
            w.say("what is a good present for my {elder:e}?", "what can I give my {friendkind:e}?"),
            w.say(
                "a {adj} {thing} or some {food} would be a good present.", "you could make a {thing} out of {material}."
            ),
        ),
        (w.say("goodbye!", "see you tomorrow."), w.say("goodbye! have a good {daytime}.", "see you soon!")),
    ]
    return _turns(*(part for pair in w.rng.sample(turns, w.rng.choice((1, 1, 2))) for part in pair))


KINDS: tuple[tuple[int, Callable[[Writer], Messages]], ...] = (
    (35, reading), (15, closed_book), (20, knowledge), (10, arithmetic), (12, writing), (8, small_talk),
)  # fmt: skip


def chat(w: Writer) -> Messages:
    """One conversation as messages."""
    (write,) = w.rng.choices([write for _, write in KINDS], [weight for weight, _ in KINDS])
    return write(w)


def chat_text(messages: Messages) -> str:
    """The conversation as the chat template writes it."""
    return "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)
