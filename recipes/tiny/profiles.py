"""Made-up businesses, places, animals, tools and lines: each fact as statements, questions and answers."""

# ruff: noqa: E501  (one template, one line: a wrapped template is hard to read)

from __future__ import annotations

from dataclasses import dataclass

from grammar import Writer

# A fact is "statement | question | answer"; inside each part `/` parts the wordings. `{it:n}` is the subject's name.
BUSINESS = (
    "{it:n} opens at {clock:open} [every day|on weekdays|in the {season}|from Monday to Friday]. / [the doors of {it:n} open|we open|work starts] at {clock:open}. | when does {it:n} open? / at what time does {it:n} open? / what time do you open? / tell me the opening time of {it:n}. | {it:n} opens at {clock:open}. / it opens at {clock:open}.",
    "it closes at {clock:close}. / {it:n} [is open until|closes at|stays open until] {clock:close}. | when does {it:n} close? / until when is {it:n} open? / how late can I come? | {it:n} closes at {clock:close}. / it is open until {clock:close}.",
    "{it:n} is closed on {day:off}. / there is no service on {day:off}. / on {day:off} nobody works there. | on which day is {it:n} closed? / which day is the day off? / can I come on {day:off}? | {it:n} is closed on {day:off}. / it is closed on {day:off}.",
    "{ticket:t} costs {price:p}. / the price of {ticket:t} is {price:p}. / you pay {price:p} for {ticket:t}. | how much is {ticket:t}? / what does {ticket:t} cost at {it:n}? / what is the price of {ticket:t}? | {ticket:t} costs {price:p}. / the price is {price:p}. / at {it:n}, {ticket:t} costs {price:p}.",
    "{it:n} was founded in {year:y} by {it:who}. / {it:who} [started|opened|founded] the {shopkind:k} in {year:y}. | who founded {it:n}? / who started {it:n}? / who is the founder? | {it:n} was founded by {it:who}. / it was {it:who} who founded {it:n}. | when was {it:n} founded? / in which year did {it:n} open? / how old is {it:n}? | {it:n} was founded in {year:y}. / it was founded in {year:y}.",
    "you find it at {small:nr} {street:s}. / {it:n} is at {small:nr} {street:s} in {place:town}. / the address is {small:nr} {street:s}, {place:town}. | where is {it:n}? / what is the address of {it:n}? / how do I find {it:n}? | {it:n} is at {small:nr} {street:s}. / you find it at {small:nr} {street:s}. / the address is {small:nr} {street:s}.",
    "{it:n} is known for {goods:g}. / people come for the {goods:g}. / it sells {goods:g}, {goods} and {goods}. | what is {it:n} known for? / what can I buy at {it:n}? / what does {it:n} sell? | {it:n} is known for {goods:g}. / you can buy {goods:g} there.",
    "in {it:n}, {rule:r}. / please note that {rule:r}. / the rule is simple: {rule:r}. | what is the rule at {it:n}? / which rule must guests follow? / is there a house rule? | the rule is that {rule:r}. / please note that {rule:r}.",
    "money is paid back within {small:days} days. / you can return things within {small:days} days. / returns are accepted for {small:days} days. | how long can I return things? / within how many days can I get my money back? / what is the return period of {it:n}? | you can return things within {small:days} days. / the return period is {small:days} days.",
    "{small:staff} people work there. / it has a staff of {small:staff}. | how many people work at {it:n}? / how many workers does {it:n} have? | {small:staff} people work at {it:n}. / it has {small:staff} workers.",
    "members get {small:pc} percent off. / there is a discount of {small:pc} percent for members. | how big is the discount? / what do members get? / is there a discount for members? | members get {small:pc} percent off. / there is a discount of {small:pc} percent.",
)
PLACE = (
    "{it:n} is a {adj:a} [town|village] [on|near] the river {place:r}. / the river {place:r} runs through {it:n}. | which river runs through {it:n}? / on which river is {it:n}? / where is {it:n}? | {it:n} is on the river {place:r}. / the river {place:r} runs through {it:n}.",
    "it has about {small:pop} thousand people. / about {small:pop} thousand people live in {it:n}. | how many people live in {it:n}? / what is the population of {it:n}? | about {small:pop} thousand people live in {it:n}. / it has {small:pop} thousand people.",
    "the town is known for its {landmark:l}. / visitors like the {landmark:l}, which was built in {year:ly}. | what is {it:n} known for? / what can visitors see in {it:n}? / what is the main sight of {it:n}? | {it:n} is known for its {landmark:l}. / visitors can see the {landmark:l}.",
    "most people live from {industry:i}. / for {small} hundred years {it:n} has lived from {industry:i}. | what do people in {it:n} live from? / what work is done in {it:n}? | people in {it:n} live from {industry:i}. / they live from {industry:i}.",
    "a {food:f} festival is held each {month:m}. / in {month:m} there is a festival of {food:f} and music. | when is the festival in {it:n}? / in which month is the festival? | the festival is in {month:m}. / it is held in {month:m}. | what is the festival about? / which food is the festival for? | the festival is about {food:f}. / it is a {food:f} festival.",
    "the winters are {weather:ww} and the summers {weather:sw}. / in winter it is {weather:ww}, in summer it is {weather:sw}. | how are the winters in {it:n}? / what is the weather like in winter? | the winters are {weather:ww}. / in winter it is {weather:ww}.",
    "its mayor is {it:who}, a {job:j}. / {it:who}, once a {job:j}, is the mayor. | who is the mayor of {it:n}? / what is the name of the mayor? | the mayor of {it:n} is {it:who}. / the mayor is {it:who}.",
    "to the {way:d} lies a {landform:lf} called {place:lfn}. / {place:lfn}, a {landform:lf}, lies to the {way:d} of the town. | what lies to the {way:d} of {it:n}? / what is {place:lfn}? | {place:lfn} is a {landform:lf}. / it is a {landform:lf} near {it:n}. / the {landform:lf} {place:lfn} lies to the {way:d}.",
)
ANIMAL = (
    "the {it:n} is a {adj:a} {animal:k} that lives in {habitat:h}. / it lives in {habitat:h} [and is rarely seen|and stays there all year|]. | where does the {it:n} live? / in what kind of place can I find the {it:n}? | the {it:n} lives in {habitat:h}. / it lives in {habitat:h}.",
    "it eats {diet:d1} and {diet:d2}. / the {it:n} feeds on {diet:d1} and sometimes {diet:d2}. | what does the {it:n} eat? / what is its food? | the {it:n} eats {diet:d1} and {diet:d2}. / it eats {diet:d1} and {diet:d2}.",
    "it has {bodypart:b} and {bodypart:b2}. / you can tell it by {bodypart:b}. | what does the {it:n} look like? / how can I tell the {it:n}? | the {it:n} has {bodypart:b}. / you can tell it by {bodypart:b}.",
    "it grows to {small:len} centimetres. / a grown {it:n} is {small:len} centimetres long. | how long is the {it:n}? / how big does the {it:n} get? | the {it:n} grows to {small:len} centimetres. / it is {small:len} centimetres long.",
    "in {month:m} the young are born, often {small:y} at a time. / it has {small:y} young, which are born in {month:m}. | when are the young born? / in which month does it have its young? | the young are born in {month:m}. | how many young does the {it:n} have? | the {it:n} has {small:y} young. / it has {small:y} young.",
    "it sleeps {adverb} during the {daytime:t}. / it is most awake in the {daytime:t2}. | when is the {it:n} awake? | the {it:n} is awake in the {daytime:t2}.",
    "its colour is {colour:c}. / most of them are {colour:c}, some are {colour:c2}. | what colour is the {it:n}? / which colour does it have? | the {it:n} is {colour:c}. / it is {colour:c}.",
)
TOOL = (
    "the {it:n} is used for {purpose:p}. / people use the {it:n} for {purpose:p}. | what is the {it:n} used for? / what can I do with the {it:n}? | the {it:n} is used for {purpose:p}. / you can use it for {purpose:p}.",
    "it is made of {material:m1} and {material:m2}. / its body is {material:m1}, its handle {material:m2}. | what is the {it:n} made of? / which material is it made of? | the {it:n} is made of {material:m1} and {material:m2}. / it is made of {material:m1} and {material:m2}.",
    "{it:who} from {place:town} invented it in {year:y}. / it was first built by {it:who} in {year:y}. | who invented the {it:n}? / who built the first {it:n}? | the {it:n} was invented by {it:who}. / {it:who} invented it. | when was the {it:n} invented? / in which year was it built? | the {it:n} was invented in {year:y}. / it was invented in {year:y}.",
    "it weighs {small:kg} kilograms. / its weight is {small:kg} kilograms. | how heavy is the {it:n}? / what does it weigh? | the {it:n} weighs {small:kg} kilograms. / it weighs {small:kg} kilograms.",
    "a {it:n} costs {price:pr}. / you can buy one for {price:pr}. | how much is a {it:n}? / what does it cost? | a {it:n} costs {price:pr}. / it costs {price:pr}.",
    "it is {shape:s} and [usually |]{colour:c}. / it has a {shape:s} shape and a {colour:c} colour. | what shape is the {it:n}? / how does it look? | the {it:n} is {shape:s}. / it is {shape:s} and {colour:c}.",
    "before use, clean it with {clean:cl}. / it should be cleaned with {clean:cl} every {day:cd}. | how do I clean the {it:n}? / what do I need to clean it? | clean it with {clean:cl}. / you clean the {it:n} with {clean:cl}.",
)
LINE = (
    "the first {vehicle:v} leaves {place:from} at {clock:dep}. / from {place:from} the first {vehicle:v} goes at {clock:dep}. | when does the first {vehicle:v} leave? / at what time does the first {vehicle:v} go from {place:from}? | the first {vehicle:v} leaves {place:from} at {clock:dep}. / it leaves at {clock:dep}.",
    "the last one leaves at {clock:last}. / after {clock:last} there is no {vehicle:v}. | when does the last {vehicle:v} leave? / how late does it run? | the last {vehicle:v} leaves at {clock:last}. / it leaves at {clock:last}.",
    "the line runs from {place:from} to {place:to}. / {it:n} links {place:from} and {place:to}. | where does {it:n} go? / which towns does {it:n} link? | {it:n} runs from {place:from} to {place:to}. / it links {place:from} and {place:to}.",
    "the trip takes {number:min} minutes. / you are there in {number:min} minutes. | how long does the trip take? / how long do I sit in the {vehicle:v}? | the trip takes {number:min} minutes. / it takes {number:min} minutes.",
    "a ticket costs {price:p}, and children pay {price:cp}. / the fare is {price:p} for adults and {price:cp} for children. | how much is a ticket? / what is the fare? | a ticket costs {price:p}. / the fare is {price:p}. | what do children pay? / how much is it for a child? | children pay {price:cp}. / for children it is {price:cp}.",
    "it stops in {place:s1}, {place:s2} and {place:s3}. / on the way there are stops in {place:s1}, {place:s2} and {place:s3}. | where does it stop? / which stops are on the way? | it stops in {place:s1}, {place:s2} and {place:s3}. / the stops are {place:s1}, {place:s2} and {place:s3}.",
    "on {day:off} it does not run. / there is no {vehicle:v} on {day:off}. | on which day does it not run? / can I travel on {day:off}? | it does not run on {day:off}. / there is no {vehicle:v} on {day:off}.",
    "[passengers are asked to note that|please note that|on board] {rule:r}. / the driver will remind you that {rule:r}. | what is the rule on board? / what must passengers know? | please note that {rule:r}. / the rule is that {rule:r}.",
)
KINDS = {"business": BUSINESS, "place": PLACE, "animal": ANIMAL, "tool": TOOL, "line": LINE}


@dataclass(frozen=True)
class Profile:
    """One made-up thing: its kind, its name, its statements, and (question, answer) pairs they settle."""

    kind: str
    name: str
    statements: list[str]
    questions: list[tuple[str, str]]


def profile(w: Writer, num_facts: int) -> Profile:
    """A fresh made-up thing with `num_facts` facts (or as many as its kind has), worded at random."""
    rng = w.rng
    kind = rng.choice(("business", "business", "place", "animal", "tool", "line", "line"))
    w.person("q")
    w.bind(who=w.say("{it:q} {surname:sn}"))
    if kind == "business":
        name = w.say(
            "the {shopadj} {shopnoun}",
            "the {shopadj} {shopnoun} {shopkind:k}",
            "{surname} and {surname}",
            "the {place:town} {shopkind:k}",
        )
        name = name[0].lower() + name[1:] if name.startswith("The ") else name
    elif kind == "place":
        name = w.draw("place")
    elif kind == "animal":
        name = w.say(
            "{colour} {animal:k}",
            "{habitatword} {animal:k}",
            "{place} {animal:k}",
            "{shopadj} {habitatword} {animal:k}",
        ).lower()
    elif kind == "tool":
        name = w.say("{material} {toolkind}", "{place} {toolkind}", "{trait} {toolkind}", "hand {toolkind}").lower()
    else:
        name = w.say("the {colour} line", "line {small}", "the {place} {vehicle:v}", "the {colour} {vehicle:v}")
        name = name[0].lower() + name[1:]
    w.bind(n=name)
    statements, questions = [], []
    for fact in rng.sample(KINDS[kind], min(num_facts, len(KINDS[kind]))):
        parts = fact.split(" | ")
        said = w.say(*parts[0].split(" / "))
        pairs = [
            (w.say(*q.split(" / ")), w.say(*a.split(" / "))) for q, a in zip(parts[1::2], parts[2::2], strict=True)
        ]
        statements.append(said)
        # An answer that the chosen wording leaves open (two facts in one line) is not asked from the text.
        questions += [pair for pair in pairs if _is_settled(pair[1], said, name)]
    return Profile(kind, name, statements, questions)


def _is_settled(answer: str, statement: str, name: str) -> bool:
    """True if every telling word of the answer (a number or a name) stands in the statement."""
    known = set((statement + " " + name).replace(".", "").replace(",", "").lower().split())
    telling = [
        word for word in answer[1:].replace(".", "").replace(",", "").split() if word[0].isdigit() or word[0].isupper()
    ]
    return all(word.lower() in known for word in telling)
