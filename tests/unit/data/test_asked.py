"""What a record asks, and the same with another's answer."""

from __future__ import annotations

from pathlib import Path

from fettle.data.asked import as_prompt, with_answer
from fettle.data.record import Message, Prompt, Record

HERE = Path("a.jsonl")
HI, HELLO, WHO = Message("user", "Hi"), Message("assistant", "Hello.", bears_loss=True), Message("user", "Who?")
ME = Message("assistant", "Me.", bears_loss=True)
SAID = Message("assistant", "Hello.")  # bears no loss


def test_a_conversation_is_asked_up_to_its_last_answer():
    asked = as_prompt(Record(HERE, 1, messages=(HI, HELLO, WHO, ME)))
    assert (asked.kind, asked.conversation) == ("prompt", (HI, SAID, WHO))


def test_a_conversation_that_ends_with_a_question_is_asked_as_it_is():
    assert as_prompt(Record(HERE, 1, messages=(HI, HELLO, WHO))).conversation == (HI, SAID, WHO)


def test_a_prompt_is_asked_without_its_completion():
    asked = as_prompt(Record(HERE, 1, prompt=Prompt((HI,), ("Hi\n",)), completion="Hello."))
    assert (asked.kind, asked.completion, asked.prompt) == ("prompt", None, Prompt((HI,), ("Hi\n",)))


def test_of_an_answered_conversation_the_answer_alone_is_learned():
    record = with_answer(as_prompt(Record(HERE, 1, messages=(HI, HELLO, WHO, ME))), "You.")
    told = [(turn.content, turn.bears_loss) for turn in record.conversation]
    assert told == [("Hi", False), ("Hello.", False), ("Who?", False), ("You.", True)]


def test_an_answered_prompt_keeps_its_plain_text():
    record = with_answer(as_prompt(Record(HERE, 1, prompt=Prompt((HI,), ("Hi\n",)), completion="Hello.")), "Yo.")
    assert (record.kind, record.prompt.plain, record.completion) == ("prompt_completion", ("Hi\n",), "Yo.")
