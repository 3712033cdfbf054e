"""A question and its answer in every spelling, and prompts by themselves for reinforcement learning."""

from __future__ import annotations

from fettle.data.formats.chats import conversation_in
from fettle.data.formats.fields import Layout, text_in, text_or_none, texts_in, wrong
from fettle.data.formats.turns import nothing_learned, tools_in, turns_in
from fettle.data.record import Message, Prompt, Record
from fettle.data.rows import Row, type_name

# Stanford Alpaca's prompts (Taori et al. 2023), for a base that has no chat template.
_PREAMBLE = (
    "Below is an instruction that describes a task{paired}. Write a response that appropriately completes the request."
)
_PLAIN = _PREAMBLE.format(paired="")
_PAIRED = _PREAMBLE.format(paired=", paired with an input that provides further context")


def from_alpaca(row: Row, layout: Layout) -> Record:
    """`instruction, output`, with or without `input, system, history`; the answers in `history` are learned too."""
    prompt = alpaca_prompt(row, layout, learns=True)
    field = layout.columns["output"]
    answer = text_in(row, row.columns[field], field)
    tools = tools_in(row, layout) if "tools" in layout.columns else ()
    return Record(row.file, row.line, prompt=prompt, completion=answer, tools=tools, columns=row.columns)


def from_instances(row: Row, layout: Layout) -> Record:
    """Self-Instruct's `{"instruction": "…", "instances": [{"input": "…", "output": "…"}]}`, of one instance."""
    field = layout.columns["instances"]
    instances, expected = row.columns[field], '[{"input": "…", "output": "…"}]'
    if not isinstance(instances, list):
        raise wrong(row, field, f"{type_name(instances)}, not a list of instances", expected)
    if len(instances) != 1:
        fix = "write each in a row of its own, with its instruction"
        raise wrong(row, field, f"{len(instances)} instances in one row", "one", fix)
    if not isinstance(instances[0], dict) or "output" not in instances[0]:
        raise wrong(row, f"{field}.0", "an instance without output", expected)
    asked = layout.columns["instruction"]
    instruction = text_in(row, row.columns[asked], asked)
    given = text_in(row, instances[0].get("input") or "", f"{field}.0.input")
    turns = (Message("user", f"{instruction}\n{given}" if given else instruction),)
    prompt = Prompt(turns, (_alpaca_text(instruction, given, "", is_first=True),))
    answer = text_in(row, instances[0]["output"], f"{field}.0.output")
    return Record(row.file, row.line, prompt=prompt, completion=answer, columns=row.columns)


def from_prompt_completion(row: Row, layout: Layout) -> Record:
    """`prompt, completion`, both text, or both messages, of which only the completion's are learned."""
    asked_in, answer_in = layout.columns["prompt"], layout.columns["completion"]
    asked, answer = row.columns[asked_in], row.columns[answer_in]
    tools = tools_in(row, layout) if "tools" in layout.columns else ()
    if isinstance(asked, list) and isinstance(answer, list):
        answered = turns_in(row, layout, answer, answer_in, learns=True)
        if not any(turn.bears_loss for turn in answered):
            raise nothing_learned(row, answer_in, answered)
        turns = (*turns_in(row, layout, asked, asked_in, learns=False), *answered)
        return Record(row.file, row.line, messages=turns, tools=tools)
    if isinstance(asked, list) or isinstance(answer, list):
        got = f"{asked_in} is {type_name(asked)} and {answer_in} {type_name(answer)}"
        raise wrong(row, answer_in, got, "both text, or both lists of messages")
    asked, answer = text_in(row, asked, asked_in), text_in(row, answer, answer_in)
    prompt = Prompt((Message("user", asked),), (asked,))
    return Record(row.file, row.line, prompt=prompt, completion=answer, tools=tools, columns=row.columns)


def from_query_response(row: Row, layout: Layout) -> Record:
    """A question under one of many names and its answer under another; of several right answers the first is learned,
    and all are kept as the column `references`."""
    prompt = query_prompt(row, layout, learns=True)
    field = layout.columns["response"]
    answer, columns = row.columns[field], row.columns
    if type(answer) is list:
        references = texts_in(row, answer, field)
        answer = references[0]
        if len(references) > 1:
            columns = {**columns, "references": references}
    elif type(answer) is int or type(answer) is float:  # {"question": "6 * 7?", "answer": 42}
        answer = str(answer)
    else:
        answer = text_in(row, answer, field)
    tools = tools_in(row, layout) if "tools" in layout.columns else ()
    return Record(row.file, row.line, prompt=prompt, completion=answer, tools=tools, columns=columns)


def from_prompt(row: Row, layout: Layout) -> Record:
    """`{"prompt": …}`, text or messages, and columns for the reward function."""
    tools = tools_in(row, layout) if "tools" in layout.columns else ()
    prompt = query_prompt(row, layout, learns=False, column="prompt")
    return Record(row.file, row.line, prompt=prompt, tools=tools, columns=row.columns)


def alpaca_prompt(row: Row, layout: Layout, *, learns: bool) -> Prompt:
    """What Alpaca's columns ask. learns: the answers in `history` bear loss."""
    columns = layout.columns
    field = columns["instruction"]
    instruction = text_in(row, row.columns[field], field)
    given = text_or_none(row, layout, "input") if "input" in columns else ""
    system = text_or_none(row, layout, "system") if "system" in columns else ""
    user = Message("user", f"{instruction}\n{given}" if instruction and given else instruction or given)
    if not system and "history" not in columns:
        return Prompt((user,), (_alpaca_text(instruction, given, "", is_first=True),))
    turns = [Message("system", system)] if system else []
    plain: list[str] = []
    for asked, answer in _history(row, layout):
        turns += [Message("user", asked), Message("assistant", answer, bears_loss=learns)]
        plain += [_alpaca_text(asked, "", system, is_first=not plain), answer]
    plain.append(_alpaca_text(instruction, given, system, is_first=not plain))
    return Prompt((*turns, user), _pieces(plain, learns))


def query_prompt(row: Row, layout: Layout, *, learns: bool, column: str = "query") -> Prompt:
    """What a column of one question asks, text or messages, after `context`, `system` and `history` where they are.

    learns: the answers in `history` bear loss. As plain text a `prompt` stays as it is; after anything else comes a
    line end.
    """
    columns = layout.columns
    field = columns[column]
    asked = row.columns[field]
    if type(asked) is list:
        if asked and type(asked[0]) is dict:
            return Prompt(tuple(conversation_in(row, layout, asked, field, learns=False)))
        asked = " ".join(texts_in(row, asked, field))  # a document as its sentences
    asked = text_in(row, asked, field)
    if "context" in columns and (context := text_or_none(row, layout, "context")):
        asked = f"{asked}\n{context}"
    ending = "" if field == "prompt" else "\n"
    system = text_or_none(row, layout, "system") if "system" in columns else ""
    turns = [Message("system", system)] if system else []
    plain: list[str] = []
    for before, answer in _history(row, layout) if "history" in columns else ():
        turns += [Message("user", before), Message("assistant", answer, bears_loss=learns)]
        plain += [_ended(before, ending), answer]
    plain.append(_ended(asked, ending))
    if system:
        plain[0] = f"{system}\n\n{plain[0]}"
    return Prompt((*turns, Message("user", asked)), _pieces(plain, learns))


def _pieces(plain: list[str], learns: bool) -> tuple[str, ...]:
    """Prompt, answer, prompt, … where the answers are learned; otherwise all of it as one prompt."""
    return tuple(plain) if learns else ("".join(plain),)


def _ended(text: str, ending: str) -> str:
    return text if text[-1:].isspace() else text + ending


def _history(row: Row, layout: Layout) -> list[tuple[str, str]]:
    key = layout.columns.get("history")
    value = None if key is None else row.columns[key]
    if not value:
        return []
    field, expected = str(key), '[["first question", "first answer"], …]'
    if not isinstance(value, list):
        raise wrong(row, field, f"{type_name(value)}, not a list of pairs", expected)
    pairs: list[tuple[str, str]] = []
    for place, pair in enumerate(value):
        if not (isinstance(pair, list) and len(pair) == 2):
            raise wrong(row, f"{field}.{place}", "not a pair of question and answer", expected)
        asked, answer = (text_in(row, pair[side], f"{field}.{place}.{side}") for side in (0, 1))
        pairs.append((asked, answer))
    return pairs


def _alpaca_text(instruction: str, given: str, system: str, *, is_first: bool) -> str:
    """The classic prompt; a later turn has no preamble, and a system text of the row's own takes its place."""
    preamble = (system or (_PAIRED if given else _PLAIN)) if is_first else ""
    middle = f"\n\n### Input:\n{given}" if given else ""
    return f"{preamble}\n\n### Instruction:\n{instruction}{middle}\n\n### Response:\n"
