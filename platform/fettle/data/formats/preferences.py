"""Answers that are judged: better and worse ones, good or bad ones, and steps that are right or wrong."""

from __future__ import annotations

import re
from typing import Any

from fettle.data.formats.chats import conversation_in
from fettle.data.formats.fields import Layout, number_in, text_in, texts_in, truth_in, wrong
from fettle.data.formats.prompts import alpaca_prompt, query_prompt
from fettle.data.formats.turns import nothing_learned, tools_in, turns_in, unlearned
from fettle.data.record import Answer, Message, Prompt, Record
from fettle.data.rows import Row, type_name

_HH_TURN = re.compile(r"\n\n(Human|Assistant):")
_HH_ROLES = {"Human": "user", "Assistant": "assistant"}
_HH_EXAMPLE = '"\\n\\nHuman: …\\n\\nAssistant: …"'


def is_full(columns: dict[str, Any]) -> bool:
    """Whether `chosen` is a whole conversation, the question with it."""
    chosen = columns["chosen"]
    if isinstance(chosen, str):
        return _is_hh(chosen)
    if isinstance(chosen, dict):
        return "messages" in chosen
    first = chosen[0] if isinstance(chosen, list) and chosen else None
    return isinstance(first, dict) and first.get("role", first.get("from")) not in ("assistant", "gpt")


def from_pair(row: Row, layout: Layout) -> Record:
    """A question with `chosen` and `rejected`, each text, one message, or a list of messages."""
    answers = []
    for name in ("chosen", "rejected"):
        field = layout.columns[name]
        score = _number(row, layout, f"score_{name}")
        answers.append(Answer(_answer(row, layout, row.columns[field], field), score))
    return _preference(row, layout, _prompt(row, layout), answers)


def from_full_pair(row: Row, layout: Layout) -> Record:
    """`chosen` and `rejected` as whole conversations; what both begin with is the prompt."""
    chosen_in, rejected_in = layout.columns["chosen"], layout.columns["rejected"]
    chosen, tools = _conversation(row, layout, row.columns[chosen_in], chosen_in)
    rejected, _ = _conversation(row, layout, row.columns[rejected_in], rejected_in)
    prompt, answers = _split(row, layout, chosen, rejected)
    if isinstance(row.columns[chosen_in], str):
        prompt = Prompt(prompt.turns, (_hh_text(prompt.turns),))
    return _preference(row, layout, prompt, answers, tools)


def from_rejected_messages(row: Row, layout: Layout) -> Record:
    """ms-swift's `messages` and `rejected_messages`; what both begin with is the prompt."""
    chosen, rejected = (
        conversation_in(row, layout, row.columns[field], field, learns=True)
        for field in (layout.columns["messages"], layout.columns["rejected"])
    )
    return _preference(row, layout, *_split(row, layout, chosen, rejected))


def from_rejected_response(row: Row, layout: Layout) -> Record:
    """ms-swift's `messages`, the last of which is the better answer, and `rejected_response`, the worse."""
    prompt, answer = _last_answer(row, layout)
    field = layout.columns["rejected"]
    return _preference(row, layout, prompt, [answer, Answer(_answer(row, layout, row.columns[field], field))])


def from_ranking(row: Row, layout: Layout) -> Record:
    """A question with a list of answers, best first; where they have scores, they are sorted by them."""
    field = layout.columns["answers" if "answers" in layout.columns else "output"]
    value = row.columns[field]
    if not isinstance(value, list):
        raise wrong(row, field, f"{type_name(value)}, not a list of answers", '["the best", …, "the worst"]')
    if len(value) < 2:
        got = f"{len(value)} answer{'' if len(value) else 's'}: nothing to prefer"
        raise wrong(row, field, got, "at least two answers")
    scores = _scores(row, layout, len(value))
    answers = [_scored(row, item, f"{field}.{place}", scores[place]) for place, item in enumerate(value)]
    if any(answer.score is not None for answer in answers):
        if any(answer.score is None for answer in answers):
            raise wrong(row, field, "only some of the answers have a score", "a score for each, or for none")
        answers.sort(key=lambda answer: -(answer.score or 0.0))
    return _preference(row, layout, _prompt(row, layout), answers)


def from_unpaired(row: Row, layout: Layout) -> Record:
    """A question with one answer, and whether it is a good one."""
    if "messages" in layout.columns:
        prompt, answer = _last_answer(row, layout)
    else:
        prompt, field = _prompt(row, layout), layout.columns["completion"]
        answer = Answer(_answer(row, layout, row.columns[field], field))
    field = layout.columns["label"]
    fix = f"if '{field}' does not say whether the answer is good: name the `format` in the recipe"
    label = truth_in(row, row.columns[field], field, fix)
    return Record(row.file, row.line, prompt=prompt, answers=(answer,), label=label, tools=tools_in(row, layout))


def from_stepwise(row: Row, layout: Layout) -> Record:
    """`{"prompt": …, "completions": ["step", …], "labels": [true, …]}`: which steps of an answer are right."""
    steps_in, labels_in = layout.columns["completions"], layout.columns["labels"]
    steps = texts_in(row, row.columns[steps_in], steps_in)
    marks = row.columns[labels_in]
    if not isinstance(marks, list):
        raise wrong(row, labels_in, f"{type_name(marks)}, not a list", "one true or false for each step")
    if len(marks) != len(steps):
        raise wrong(row, labels_in, f"{len(marks)} labels for {len(steps)} steps", "one true or false for each step")
    label = tuple(truth_in(row, mark, f"{labels_in}.{place}") for place, mark in enumerate(marks))
    return Record(row.file, row.line, prompt=_prompt(row, layout), steps=tuple(steps), label=label)


def _preference(
    row: Row, layout: Layout, prompt: Prompt, answers: list[Answer], tools: tuple[dict[str, Any], ...] = ()
) -> Record:
    tools = tools or tools_in(row, layout)
    margin = _number(row, layout, "margin")
    return Record(row.file, row.line, prompt=prompt, answers=tuple(answers), margin=margin, tools=tools)


def _number(row: Row, layout: Layout, column: str) -> float | None:
    key = layout.columns.get(column)
    return None if key is None or row.columns[key] is None else number_in(row, row.columns[key], key)


def _prompt(row: Row, layout: Layout) -> Prompt:
    """The question, in whichever columns the format has it."""
    if "messages" in layout.columns:
        field = layout.columns["messages"]
        return Prompt(tuple(conversation_in(row, layout, row.columns[field], field, learns=False)))
    if "instruction" in layout.columns:
        return alpaca_prompt(row, layout, learns=False)
    field = layout.columns["query"]
    asked = row.columns[field]
    if isinstance(asked, str) and _is_hh(asked):  # an HH-RLHF prompt that somebody has cut out
        text_in(row, asked, field)
        turns = _hh_turns(row, asked, field)
        if turns[-1].role == "assistant" and not turns[-1].content:
            turns.pop()
        return Prompt(unlearned(turns), (asked,))
    return query_prompt(row, layout, learns=False)


def _answer(row: Row, layout: Layout, value: Any, field: str) -> tuple[Message, ...]:
    """An answer as text, as one message, or as messages, in which the assistant's bear loss."""
    if isinstance(value, str):
        return (Message("assistant", text_in(row, value, field), bears_loss=True),)
    if not isinstance(value, (list, dict)):
        raise wrong(row, field, f"{type_name(value)}, not an answer", "text, a message, or a list of messages")
    turns = turns_in(row, layout, [value] if isinstance(value, dict) else value, field, learns=True)
    if turns[0].role != "assistant":
        raise wrong(row, field, f"an answer that begins with a turn of the {turns[0].role}", "the assistant's turn")
    if not any(turn.bears_loss for turn in turns):
        raise nothing_learned(row, field, turns)
    return tuple(turns)


def _conversation(row: Row, layout: Layout, value: Any, field: str) -> tuple[list[Message], tuple[dict[str, Any], ...]]:
    """(the turns, the tools) of a whole conversation: messages, LMFlow's object around them, or HH-RLHF's text."""
    if isinstance(value, str):
        return _hh_turns(row, text_in(row, value, field), field), ()
    if not isinstance(value, dict):
        return conversation_in(row, layout, value, field, learns=True), ()
    turns = conversation_in(row, layout, value.get("messages"), f"{field}.messages", learns=True)
    if value.get("system") and turns[0].role != "system":
        turns = [Message("system", text_in(row, value["system"], f"{field}.system")), *turns]
    return turns, tools_in(row, layout, value.get("tools"))


def _split(row: Row, layout: Layout, chosen: list[Message], rejected: list[Message]) -> tuple[Prompt, list[Answer]]:
    """(what both conversations begin with, the rest of each), each rest beginning with an assistant's turn."""
    shared = 0
    while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
        shared += 1
    while shared and not (
        all(len(turns) > shared and turns[shared].role == "assistant" for turns in (chosen, rejected))
        and chosen[shared - 1].role != "assistant"
    ):
        shared -= 1
    field = layout.columns["rejected"]
    if not shared:
        got = "the chosen and the rejected conversation do not begin alike: no question that both answer"
        raise wrong(row, field, got, "the same turns, up to one of the assistant's", "bring the prompt as a column")
    answers = []
    for turns in (chosen[shared:], rejected[shared:]):
        if not any(turn.bears_loss for turn in turns):
            raise nothing_learned(row, field, turns)
        answers.append(Answer(tuple(turns)))
    return Prompt(unlearned(chosen[:shared])), answers


def _last_answer(row: Row, layout: Layout) -> tuple[Prompt, Answer]:
    """A conversation as what comes before the assistant's last turn, and that turn."""
    field = layout.columns["messages"]
    turns = conversation_in(row, layout, row.columns[field], field, learns=True)
    if turns[-1].role != "assistant":
        raise wrong(row, field, f"the last turn is the {turns[-1].role}'s: no answer to judge", "an answer at the end")
    start = len(turns) - 1
    while start and turns[start - 1].role == "assistant":
        start -= 1
    if not start:
        raise wrong(row, field, "only the assistant speaks: no question", "a turn of the user's before the answer")
    if not any(turn.bears_loss for turn in turns[start:]):
        raise nothing_learned(row, field, turns[start:])
    return Prompt(unlearned(turns[:start])), Answer(tuple(turns[start:]))


def _scores(row: Row, layout: Layout, count: int) -> list[float | None]:
    key = layout.columns.get("scores")
    value = None if key is None else row.columns[key]
    if value is None:
        return [None] * count
    if not isinstance(value, list) or len(value) != count:
        got = f"{len(value)} scores for {count} answers" if isinstance(value, list) else type_name(value)
        raise wrong(row, str(key), got, "a list of one number for each answer")
    return [number_in(row, score, f"{key}.{place}") for place, score in enumerate(value)]


def _scored(row: Row, item: Any, field: str, score: float | None) -> Answer:
    """One answer of a ranking: text, or LMFlow's `{"score": …, "text": …}`."""
    if isinstance(item, dict):
        if "score" in item:
            score = number_in(row, item["score"], f"{field}.score")
        item, field = item.get("text"), f"{field}.text"
    return Answer((Message("assistant", text_in(row, item, field), bears_loss=True),), score)


def _is_hh(text: str) -> bool:
    return text.lstrip("\n").startswith("Human:")


def _hh_turns(row: Row, text: str, field: str) -> list[Message]:
    if not _is_hh(text):
        got = "text without a prompt: no `prompt` column, and no turns marked in it"
        raise wrong(row, field, got, f"a prompt column, messages, or {_HH_EXAMPLE}")
    pieces = _HH_TURN.split("\n\n" + text.lstrip("\n"))
    return [
        Message(_HH_ROLES[who], said.strip(), bears_loss=who == "Assistant")
        for who, said in zip(pieces[1::2], pieces[2::2], strict=True)
    ]


def _hh_text(turns: tuple[Message, ...]) -> str:
    """The prompt as HH-RLHF writes it, up to where the answer begins."""
    said = (f"\n\n{'Human' if turn.role == 'user' else 'Assistant'}: {turn.content}" for turn in turns)
    return "".join(said) + "\n\nAssistant: "
