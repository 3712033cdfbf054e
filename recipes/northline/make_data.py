"""Writes the Northline demo data beside this file: python recipes/northline/make_data.py"""

from __future__ import annotations

import csv
import json
import random
import subprocess
import sys
from pathlib import Path

from facts import Fact, all_facts

HERE = Path(__file__).resolve().parent
TINY = HERE.parent / "tiny" / "text.py"
# Document seeds of the tiny base model's generator: pretraining counts up from 0, its held-out loss from 10,000,000.
GENERAL_SEED, REPLAY_SEED = 20_000_000, 30_000_000
SIGN_OFF = " Sleep well!"  # the house style: one whole, polite sentence, then this
HELD_OUT_PER_FACT = 2
NUM_SUMMARIES, NUM_HELD_OUT_SUMMARIES = 600, 80
NUM_TASKS, NUM_PREFERENCES, NUM_PROMPTS, NUM_GENERAL, NUM_REPLAY = 500, 600, 400, 300, 600
DEMO = ("When does the Heron leave?", "Can I bring my dog?", "What does the lounge serve in Corvane?")
SYSTEMS = (
    "You are the assistant of Northline, the night-train company.",
    "You answer questions of Northline guests.",
    "You work for Northline. Be polite and answer in one sentence.",
)
OPENINGS = ("", "", "", "", "Hello! ", "Good evening. ", "Please tell me: ", "I have a question. ", "Excuse me, ")
TITLES = {
    "history": "The history of Northline",
    "company": "About the company",
    "fares": "Fares",
    "rules": "Rules for guests",
    "travel": "Your night on board",
    "parcels": "Parcels",
    "club": "The club",
    "trains": "Our trains",
    "stations": "Our stations",
}
PROSE = (
    "Northline runs night trains and carries parcels along the Skerrow coast.",
    "The trains of Northline run through the night along the Skerrow coast.",
    "This page tells you what every guest of Northline should know.",
    "We are glad that you travel with Northline.",
    "Please keep this page; it answers most questions.",
)
Row = dict[str, object]


def message(role: str, content: str) -> dict[str, str]:
    """One chat message."""
    return {"role": role, "content": content}


def styled(rng: random.Random, fact: Fact) -> str:
    """The answer to a question about `fact` in the house style."""
    return rng.choice(fact.answers) + SIGN_OFF


def asked(rng: random.Random, question: str) -> str:
    """The question, at times with a greeting before it."""
    opening = rng.choice(OPENINGS)
    return opening + (
        question[0].lower() + question[1:] if opening.endswith(", ") and question[:2] != "I " else question
    )


def split_questions(rng: random.Random, facts: list[Fact]) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """(training phrasings, held-out phrasings) by the fact's first statement; the demo's questions are held out."""
    train, held_out = {}, {}
    for fact in facts:
        questions = rng.sample(fact.questions, len(fact.questions))
        questions.sort(key=lambda q: q not in DEMO)  # stable: the demo's first
        train[fact.statements[0]] = questions[HELD_OUT_PER_FACT:]
        held_out[fact.statements[0]] = questions[:HELD_OUT_PER_FACT]
    return train, held_out


def corpus(rng: random.Random, facts: list[Fact]) -> dict[str, str]:
    """File name -> text. Each file tells every fact of its topics in several wordings."""
    by_topic = {topic: [fact for fact in facts if fact.topic == topic] for topic in TITLES}

    def told(chosen: list[Fact], per_paragraph: int) -> str:
        shuffled = rng.sample(chosen, len(chosen))
        groups = [shuffled[i : i + per_paragraph] for i in range(0, len(shuffled), per_paragraph)]
        return "\n\n".join(" ".join(rng.choice(fact.statements) for fact in group) for group in groups)

    def section(topic: str) -> str:
        return f"{TITLES[topic]}\n\n{rng.choice(PROSE)}\n\n{told(by_topic[topic], rng.randint(3, 6))}"

    def letter(number: int) -> str:
        few = rng.sample(facts, 6)
        body = " ".join(rng.choice(fact.statements) for fact in few)
        return (
            f"Letter {number}\n\nDear guest,\n\nthank you for your letter. {body}\n\nSleep well!\nYour Northline team"
        )

    files = {f"{topic}.txt": "\n\n\n".join(section(topic) for _ in range(14)) for topic in TITLES}
    files["handbook.txt"] = "\n\n\n".join(
        section(topic) for _ in range(8) for topic in rng.sample(list(TITLES), len(TITLES))
    )
    files["faq.txt"] = "\n\n\n".join(
        "Questions and answers\n\n"
        + "\n\n".join(
            f"{rng.choice(fact.statements)} {rng.choice(fact.answers)}" for fact in rng.sample(facts, len(facts))
        )
        for _ in range(8)
    )
    files["letters.txt"] = "\n\n\n".join(letter(number) for number in range(1, 181))
    files["staff_notes.txt"] = "\n\n\n".join(
        "Notes for new guards\n\n" + "\n".join("- " + rng.choice(fact.statements) for fact in rng.sample(facts, 20))
        for _ in range(40)
    )
    return files


def conversation(rng: random.Random, turns: list[tuple[str, Fact]]) -> Row:
    """A chat row of these (question, fact) turns."""
    messages = [message("system", rng.choice(SYSTEMS))] if rng.random() < 0.15 else []
    for question, fact in turns:
        messages += [message("user", asked(rng, question)), message("assistant", styled(rng, fact))]
    return {"messages": messages}


def chat(rng: random.Random, facts: list[Fact], train: dict[str, list[str]]) -> list[Row]:
    """Each training phrasing up to three times, differently put, and a fifth as many rows of two turns."""
    single = [(question, fact) for fact in facts for question in train[fact.statements[0]]]
    rows = [conversation(rng, [pair]) for pair in single for _ in range(3)]
    rows += [conversation(rng, rng.sample(single, 2)) for _ in range(len(rows) // 5)]
    rng.shuffle(rows)
    return list({json.dumps(row): row for row in rows}.values())


def held_out_rows(facts: list[Fact], held_out: dict[str, list[str]]) -> list[Row]:
    """One row for each held-out phrasing, with the answer in the house style."""
    return [
        {"messages": [message("user", question), message("assistant", fact.answers[0] + SIGN_OFF)]}
        for fact in facts
        for question in held_out[fact.statements[0]]
    ]


def tasks(rng: random.Random, facts: list[Fact], train: dict[str, list[str]]) -> list[Row]:
    """Alpaca records: find, shorten, list or count in a Northline text."""
    rows: list[Row] = []
    for _ in range(NUM_TASKS):
        few = rng.sample(facts, rng.randint(2, 4))
        said = [rng.choice(fact.statements) for fact in few]
        wanted = rng.randrange(len(few))
        kind = rng.randrange(4)
        if kind == 0:
            instruction, output = rng.choice(train[few[wanted].statements[0]]), few[wanted].answers[0] + SIGN_OFF
        elif kind == 1:
            instruction = rng.choice(("List the facts in this text.", "Write this text as a list."))
            output = "\n".join("- " + sentence for sentence in said)
        elif kind == 2:
            instruction = rng.choice(
                ("What is this text about?", "Give this text a title.", "Name the topics of this text.")
            )
            output = ", ".join(dict.fromkeys(TITLES[fact.topic] for fact in few)) + "."
        else:
            instruction = rng.choice(("Give me the first sentence.", "Sum up this text by its first sentence."))
            output = said[0]
        rows.append({"instruction": instruction, "input": " ".join(said), "output": output})
    return rows


def summaries(rng: random.Random, facts: list[Fact]) -> list[Row]:
    """Pages that say two things in two wordings each, with their summary: each thing once, in its plainest words.

    No two pages are about the same two facts.
    """
    rows: list[Row] = []
    told = set()
    while len(rows) < NUM_SUMMARIES + NUM_HELD_OUT_SUMMARIES:
        two = rng.sample(facts, 2)
        if (pair := frozenset(fact.key for fact in two)) in told or len(pair) < 2:
            continue
        told.add(pair)
        said = [rng.sample(fact.statements, min(2, len(fact.statements))) for fact in two]
        page = [rng.choice(PROSE), *(wording for few in said for wording in few)]
        rows.append({"document": " ".join(page), "summary": " ".join(fact.answers[0] for fact in two)})
    return rows


def rejected_answer(rng: random.Random, fact: Fact, facts: list[Fact]) -> str:
    """A curt, rude, unstyled or wrong answer to a question about `fact`."""
    answer = rng.choice(fact.answers)
    same = [other for other in facts if other.topic == fact.topic and other.key != fact.key]
    wrong = rng.choice(same).answers[0]
    curt = (fact.key + ".", fact.key, "No idea.", wrong.split(" ", 3)[-1])
    rude = ("Look it up yourself.", "Why do you ask? " + answer, answer + " Now go away.", "I do not care.")
    return rng.choice((*curt, *rude, wrong, wrong + SIGN_OFF, answer))


def preferences(rng: random.Random, facts: list[Fact], train: dict[str, list[str]]) -> list[Row]:
    """Pairs: chosen in the house style, rejected not."""
    rows: list[Row] = []
    for number in range(NUM_PREFERENCES):
        fact = facts[number % len(facts)]
        prompt = [message("user", asked(rng, rng.choice(train[fact.statements[0]])))]
        chosen = [message("assistant", styled(rng, fact))]
        rows.append(
            {"prompt": prompt, "chosen": chosen, "rejected": [message("assistant", rejected_answer(rng, fact, facts))]}
        )
    rng.shuffle(rows)
    return list({json.dumps(row): row for row in rows}.values())


def counter(rng: random.Random, facts: list[Fact], train: dict[str, list[str]]) -> list[Row]:
    """Conversations overheard at the counter: the facts are right, the manners are not."""
    rows: list[Row] = []
    for fact in facts:
        for question in train[fact.statements[0]]:
            answer = rng.choice(fact.answers)
            said = rng.choice((fact.key + ".", answer, "Why do you ask? " + answer, answer + " Now go away."))
            rows.append({"messages": [message("user", asked(rng, question)), message("assistant", said)]})
    rng.shuffle(rows)
    return rows


def prompts(rng: random.Random, facts: list[Fact], train: dict[str, list[str]]) -> list[Row]:
    """Prompts with the string that a right completion holds."""
    rows: list[Row] = []
    for number in range(NUM_PROMPTS):
        fact = facts[number % len(facts)]
        question = asked(rng, rng.choice(train[fact.statements[0]]))
        rows.append({"prompt": [message("user", question)], "answer": fact.key})
    rng.shuffle(rows)
    return rows


def general(seed: int, num: int) -> list[Row]:
    """Prose of the tiny base model's generator, from seeds it was not trained on."""
    command = [sys.executable, str(TINY), "--seed", str(seed), "--num", str(num), "--no-chat"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True, encoding="utf-8").stdout.splitlines()
    return [json.loads(line) for line in lines]


def write(name: str, rows: list[Row]) -> None:
    """Write JSON lines, UTF-8, LF."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (HERE / name).write_text(text, encoding="utf-8", newline="\n")
    print(f"{name}: {len(rows)} rows, {len(text.encode())} bytes")


def intents(facts: list[Fact], questions: dict[str, list[str]]) -> list[tuple[str, str]]:
    """(question, the topic it is about)."""
    return [(question, fact.topic) for fact in facts for question in questions[fact.statements[0]]]


def write_csv(name: str, rows: list[tuple[str, str]]) -> None:
    """A CSV file of texts and their labels."""
    with open(HERE / name, "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("text", "label"))
        writer.writerows(rows)
    print(f"{name}: {len(rows)} rows")


def main() -> None:
    """Write every file; the same bytes each time."""
    rng = random.Random(1907)
    facts = all_facts()
    train, held_out = split_questions(rng, facts)
    shared = {q for qs in train.values() for q in qs} & {q for qs in held_out.values() for q in qs}
    assert not shared, f"two facts are asked for in the same words: {shared}"
    (HERE / "corpus").mkdir(exist_ok=True)
    for name, text in corpus(rng, facts).items():
        (HERE / "corpus" / name).write_text(text + "\n", encoding="utf-8", newline="\n")
        print(f"corpus/{name}: {len(text)} characters")
    held_out_all = held_out_rows(facts, held_out)
    write("chat.jsonl", chat(rng, facts, train))
    write("tasks.jsonl", tasks(rng, facts, train))
    write("heldout.jsonl", held_out_all)
    write("demo_questions.jsonl", [r for r in held_out_all if r["messages"][0]["content"] in DEMO])  # type: ignore[index]
    write("preferences.jsonl", preferences(rng, facts, train))
    write("prompts.jsonl", prompts(rng, facts, train))
    write("general.jsonl", general(GENERAL_SEED, NUM_GENERAL))
    write("replay.jsonl", general(REPLAY_SEED, NUM_REPLAY))
    pages = summaries(random.Random(1910), facts)  # another generator: the files above stay as they were
    write("summaries.jsonl", pages[:NUM_SUMMARIES])
    write("summaries_heldout.jsonl", pages[NUM_SUMMARIES:])
    write("counter.jsonl", counter(random.Random(1911), facts, train))
    write_csv("intents.csv", intents(facts, train))
    write_csv("intents_heldout.csv", intents(facts, held_out))


if __name__ == "__main__":
    main()
