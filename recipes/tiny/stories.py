"""Small stories: seven plots, each a row of sentences with many wordings."""

# ruff: noqa: E501  (one template, one line: a wrapped template is hard to read)

from __future__ import annotations

from collections.abc import Callable

from grammar import Writer


def _meet(w: Writer) -> list[str]:
    w.person("h")
    w.person("f")
    return [
        w.say(
            "[once upon a time|long ago|many years ago], there was a [{trait} |][{job}|child] [named|called] {it:h}. {it:hhe} lived [in a {adj} house {where}|in {place:town}|in a small village [called|named] {place:town}|with {it:hhis} {elder}].",
            "{it:h} was a {trait} {job} who lived [in {place:town}|{where}|in a {adj} house]. [everyone knew {it:hhim}.|{it:hhe} had a {adj} {animal}.|{it:hhe} liked to {skill}.]",
            "[one {season} {daytime}|one {day}|on a {weather} {daytime}], {it:h} was {doing} {where}. [the air was {weather}.|it was a {adj} day.|{it:hhe} felt {mood}.|]",
            "there was a [{trait} |]{job} in {place:town} whose name was {it:h}. [every {daytime} {it:hhe} liked to {chore}.|{it:hhe} was always {mood}.|]",
        ).strip()
    ]


def _end(w: Writer) -> list[str]:
    return [
        w.say(
            "[from that day on|after that|since then], {it:h} and {it:f} were good friends.",
            "{it:h} went home and [slept well|told {it:hhis} {elder} everything|ate some {food}|was {mood}].",
            "[that {daytime}|in the end|at last], {it:h} was very {mood}. [it had been a good day.|the end.|]",
            '"[thank you|what a day|now I know|well done]," said {it:f}. they [laughed|smiled|went home] together.',
            "{it:h} never forgot that {day}. [the end.|]",
            "[and so|that is how] {it:h} learned that [it is good to help|friends matter most|small things can be important|it is never too late to try|nobody is good at everything|being patient helps|it is better to ask than to guess].",
        ).strip()
    ]


def lost_thing(w: Writer) -> list[str]:
    """Something is lost, looked for and found."""
    return [
        w.say(
            "{it:h} had a {adj:ta} {thing:t}. {it:hhe} [loved it very much|took it everywhere|kept it in a box].",
            "{it:hhis} [best|favourite|dearest] thing was a {colour:ta} {thing:t}. [it was a gift from {it:hhis} {elder}.|]",
        ).strip(),
        w.say(
            "but one {daytime} the {thing:t} was gone. {it:h} [felt {badmood}|looked everywhere|began to cry].",
            "one {day} {it:hhe} could not find the {thing:t}. {it:hhe} was very {badmood}.",
        ),
        w.say(
            '"[where is my {thing:t}|have you seen my {thing:t}]?" {it:h} asked {it:f}. "[no|not today|I am sorry, no]," said {it:f}. "[but I will help you|let us look {where:l}]."',
            "{it:f}, {it:hhis} {friendkind}, came to help. they looked {wherefound} and {wherefound}.",
            '{it:hhe} asked the {job}, but the {job} had not seen it. then {it:f} came and said, "let us look together."',
        ),
        w.say(
            "[at last|after an hour|in the end], they found the {thing:t} {wherefound}. [a {animal} was sleeping on it.|it was a little wet, but not broken.|]",
            '"look!" cried {it:f}. the {thing:t} was {wherefound}. [a {animal} had taken it there.|]',
        ).strip(),
        w.say(
            "{it:h} was {mood} and thanked {it:f}. they [ate {food} together|played until it was dark|sang all the way home].",
            '"thank you, {it:f}," said {it:h}. "[you are a good friend|I would never have looked there]."',
        ),
    ]


def new_friend(w: Writer) -> list[str]:
    """An animal or a child is alone and finds a friend."""
    return [
        w.say(
            "[one day|one {weather} {daytime}], {it:hhe} met a {adj} {animal:a} {where:l}. the {animal:a} was {badmood:b}.",
            "[on the way to the market|while {doing}], {it:hhe} saw a {adj} {animal:a} {where:l}.",
        ),
        w.say(
            '"[hello|good {daytime}], little {animal:a}," said {it:h}. "[why are you {badmood:b}|what is the matter|are you hungry]?"',
            '"do not be afraid," {it:h} said [softly|with a smile|in a quiet voice].',
        ),
        w.say(
            'the {animal:a} said, "[I have no friends|I cannot find my way home|I am hungry and cold|nobody wants to play with me]."',
            "the {animal:a} [looked up|shook its head|came a little closer] but said nothing.",
        ),
        w.say(
            "so {it:h} gave it some {food} and [a {adj} blanket|a bowl of water|a warm place to sleep].",
            "{it:h} sat down and they shared some {food} and {food}.",
            "then {it:f} came along with some {food}, and all three of them ate together.",
        ),
        w.say(
            "[soon|after a while|the next day] the {animal:a} was {mood}. every {day} they met {where:l}.",
            "the {animal:a} [jumped|danced|ran in a circle] because it was so {mood}.",
        ),
    ]


def learn_skill(w: Writer) -> list[str]:
    """Someone tries, fails, is helped and can do it."""
    return [
        w.say(
            "{it:h} wanted to learn to {skill:s}. {it:hhe} tried it {adverb}, but it did not work.",
            "all {it:hhis} friends could {skill:s}, but {it:h} could not. this made {it:hhim} {badmood}.",
        ),
        w.say(
            "on {day:d1} {it:hhe} tried again, and on {day:d2} too. [each time it went wrong.|it was not easy.|{it:hhe} almost gave up.]",
            '"I will never learn it," {it:hhe} said to {it:f}.',
        ),
        w.say(
            '"[do not give up|try once more|go slowly]," said {it:f}. "[I needed {small} days to learn it|nobody can do it the first time|I will show you how]."',
            "{it:f}, who was a {job}, showed {it:hhim} how to do it {adverb}.",
        ),
        w.say(
            "[after {small} days|a week later|the next {daytime}], {it:h} could {skill:s}. {it:hhe} was so {mood}!",
            'then, {where}, it worked at last. "I can {skill:s}!" {it:h} cried.',
        ),
        w.say(
            "now {it:hhe} teaches other children to {skill:s}.",
            "{it:hhis} {elder} was {mood} and made {food} for everyone.",
            "now {it:hhe} can {skill:s} every day.",
        ),
    ]


def broken(w: Writer) -> list[str]:
    """Something breaks and is owned up to and mended."""
    return [
        w.say(
            "one {day}, while {doing}, {it:h} broke the {adj} {thing:t} of {it:hhis} {elder:e}. {it:hhe} was {badmood}.",
            "there was a {thing:t} on the table. {it:h} ran past, and the {thing:t} fell down and broke.",
        ),
        w.say(
            '"[what shall I do?|oh no!|nobody must know!]" {it:hhe} thought. {it:hhe} hid the pieces {wherefound}.',
            "at first {it:hhe} did not want to tell anyone. {it:hhe} hid it {wherefound}.",
        ),
        w.say(
            'but that night {it:hhe} could not sleep. in the morning {it:hhe} said, "I broke the {thing:t}. I am sorry."',
            'then {it:f} said, "[it is better to tell the truth|tell them, they will understand]." so {it:h} told the truth.',
        ),
        w.say(
            "[nobody was angry.|they were not angry at all.] together they mended it with {material} and glue.",
            '"[thank you for telling me|everyone makes mistakes]," was the answer. "[let us mend it|we can make a new one]."',
        ),
    ]


def journey(w: Writer) -> list[str]:
    """A trip to a place, with something seen on the way."""
    return [
        w.say(
            "in {month} {it:h} went on a trip to {place:goal}. {it:hhe} took some {food}, a {thing} and a {thing}.",
            "{it:h} had to bring a {thing:t} to {it:hhis} {elder} in {place:goal}. the way was long.",
        ),
        w.say(
            "[first|at the beginning] {it:hhe} walked along the river, then over a {adj} hill. the day was {weather}.",
            "the road went through a {adj} forest. there {it:hhe} saw a {animal}, {small} birds and a {adj} {animal}.",
        ),
        w.say(
            'at the bridge {it:hhe} met {it:f}, a {trait} {job}. "where are you going?" asked {it:f}. "to {place:goal}," said {it:h}.',
            "soon it began to get dark, and {it:h} was {badmood}. then {it:f} came with a lamp.",
        ),
        w.say(
            "they went on together and [talked about {topic}|sang songs|shared some {food}].",
            '"it is not far," said {it:f}. "you must turn left at the {landmark}."',
        ),
        w.say(
            "when {it:hhe} came to {place:goal}, {it:hhe} saw the {landmark}. it was {adj} and {adj}.",
            "they reached {place:goal} in the {daytime}. everyone there was {mood} to see them.",
        ),
    ]


def contest(w: Writer) -> list[str]:
    """A contest whose winner shares the prize."""
    return [
        w.say(
            "there was a contest in {place:town}. who could {skill:s} best? {it:h} and {it:f} both wanted to win.",
            "every {season} the people of {place:town} had a [singing|cooking|baking|running|painting|boat|garden|kite] contest. the prize was a {adj:pa} {thing:p}.",
        ),
        w.say(
            "{it:h} worked {adverb} for {small} days. {it:f} worked {adverb} too.",
            "on the day of the contest it was {weather}. {small} people came to watch.",
        ),
        w.say(
            '[in the end|after a long time] {it:f} won. {it:h} was a little {badmood}, but {it:hhe} said, "well done!"',
            "{it:h} won, and {it:f} was {badmood}.",
        ),
        w.say(
            "then the winner shared the prize, and they were both {mood}.",
            '"next year we will try together," said {it:f}.',
        ),
    ]


def surprise(w: Writer) -> list[str]:
    """A birthday is prepared in secret."""
    return [
        w.say(
            "it was the birthday of {it:f}. {it:h} wanted to give {it:fhim} a {colour} {thing:t}, but {it:hhe} had only {small} coins.",
            "{it:h} knew that {it:f} wished for a {thing:t}. so {it:hhe} went to the market with {small} coins.",
        ),
        w.say(
            "so {it:hhe} helped the {job} to {chore}, and got {small} coins for it.",
            "the {thing:t} cost too much. then {it:hhe} had an idea: {it:hhe} would make one out of {material}.",
        ),
        w.say(
            "{it:hhe} hid the gift {wherefound} and made a cake with {food}.",
            "in the {daytime} all the friends came and hid {wherefound}.",
        ),
        w.say(
            '"surprise!" they all cried. {it:f} was so {mood} that {it:fhe} could not speak.',
            '{it:f} opened the box and saw the {thing:t}. "it is [just what I wanted|the best gift of all]!" {it:fhe} said.',
        ),
    ]


PLOTS: tuple[Callable[[Writer], list[str]], ...] = (
    lost_thing, new_friend, learn_skill, broken, journey, contest, surprise,
)  # fmt: skip


def story(w: Writer) -> str:
    """One story of 40 to 250 tokens; about one in three strings two plots together."""
    sentences = _meet(w)
    plots = w.rng.sample(PLOTS, 2 if w.rng.random() < 0.3 else 1)
    for number, plot in enumerate(plots):
        if number:
            w.slots = {k: v for k, v in w.slots.items() if k.startswith((":h", ":f"))}
            sentences.append(
                w.say(
                    "\n\n[the next day was different.|a week later something else happened.|in {month} came a new story.]"
                )
            )
        sentences += plot(w)
    sentences += _end(w)
    text = " ".join(sentences).replace(" \n\n", "\n\n")
    if w.rng.random() < 0.15:
        text = w.say("[the story of {it:h}|{it:h} and {it:f}|{it:h}]") + "\n\n" + text
    return text
