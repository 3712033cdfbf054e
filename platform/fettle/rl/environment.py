"""Environments: a class of the user's whose messages answer the policy's, turn after turn; and playing its episodes."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from transformers import PreTrainedTokenizerBase

from fettle.data.chat import ChatTemplate, template_of
from fettle.data.formats.fields import Layout
from fettle.data.formats.turns import WORDS, turns_in
from fettle.data.neutral import Neutral
from fettle.data.record import Message, Prompt, Record
from fettle.data.rows import Row
from fettle.data.served import as_messages
from fettle.engine.sampling import Sampling
from fettle.errors import UserError, did_you_mean
from fettle.rl.engines import Answered, Asked
from fettle.rl.rewards.function import defined_at, line_in, load_named
from fettle.rl.rollout import Rollout

_EXPECTED = "a class with reset(self, prompt, **columns) and step(self, messages)"
_OF_RESET = 'None, which leaves the prompt as it is, or [{"role": "user", "content": "…"}, …]'
_OF_STEP = 'None, which ends the episode, or [{"role": "user", "content": "…"}, …], or (one of these, a reward)'
_CALLED: dict[str, tuple[Any, ...]] = {"__init__": (None,), "reset": (None, []), "step": (None, [])}
_AS_IS = Neutral(())

Messages = list[dict[str, Any]]


class Environment(Protocol):
    """The user's class. Each rollout has an object of its own, made without arguments. Messages are OpenAI's."""

    def reset(self, prompt: Messages, **columns: Any) -> Messages | None:
        """What to begin with in place of the prompt; None keeps it. columns: the record's, those named or all."""
        ...

    def step(self, messages: Messages) -> Messages | tuple[Messages | None, float] | None:
        """What to say to the policy's answer, the last of `messages`, before it speaks again; None ends the episode.
        Asked after every answer, also where turns or tokens have run out, for the reward. Rewards are added up."""
        ...


@dataclass(frozen=True)
class EnvironmentClass:
    """The user's class and its file. takes: the columns that `reset` names; None where it takes any."""

    file: Path
    made: type[Environment]
    takes: frozenset[str] | None

    def reset(self, record: Record) -> tuple[Environment, tuple[Message, ...]]:
        """A new environment, and the conversation that it begins with. Raises UserError, at the user's own line, where
        it raises or gives anything but messages to answer."""
        assert record.prompt is not None
        own = self._asked(self.made, record)
        columns = copy.deepcopy(dict(record.columns))  # the record comes again, in other rollouts and iterations
        for name in record.columns:
            if name in ("self", "prompt") or (self.takes is not None and name not in self.takes):
                del columns[name]
        found = self._asked(own.reset, record, as_messages(record.prompt.turns, _AS_IS), **columns)
        if found is None:
            return own, record.prompt.turns
        turns = self._turns(found, "reset", _OF_RESET)
        if turns[-1].role == "assistant":
            raise self.wrong("reset", "gave an answer as its last message", "messages that the policy answers")
        return own, turns

    def step(self, own: Environment, turns: Sequence[Message], record: Record) -> tuple[tuple[Message, ...], float]:
        """What the environment says, nothing where it ends the episode, and its reward. Raises UserError as `reset`."""
        found, reward = self._asked(own.step, record, as_messages(turns, _AS_IS)), 0.0
        if isinstance(found, tuple):
            if len(found) != 2:
                raise self.wrong("step", f"gave a tuple of {len(found)}", _OF_STEP)
            found, reward = found
            reward = reward.item() if hasattr(reward, "item") else reward
            if not isinstance(reward, Real) or not math.isfinite(reward):
                raise self.wrong("step", f"gave {reward!r} as the reward", "a finite number")
        said = () if found is None else self._turns(found, "step", _OF_STEP)
        if any(turn.role == "assistant" for turn in said):
            raise self.wrong("step", "gave a message of the assistant's", "messages of a user, a tool or the system")
        return said, float(reward)

    def wrong(self, method: str, got: str, expected: str | None = None, fix: str | None = None) -> UserError:
        """What is wrong with what a method gave, as an error to raise."""
        line = defined_at(getattr(self.made, method))
        return UserError(f"{self.made.__name__}.{method} {got}", file=self.file, line=line, expected=expected, fix=fix)

    def _asked(self, function: Callable[..., Any], record: Record, /, *told: Any, **columns: Any) -> Any:
        try:
            return function(*told, **columns)
        except Exception as error:  # the class is the user's; it may raise anything
            line = line_in(self.file, error)
            named = ", ".join(record.columns) or "(none)"
            raise UserError(
                f"{function.__qualname__} raised {type(error).__name__}: {error}",
                file=self.file,
                line=line or defined_at(function),
                fix=f"the record has the columns {named}" if line is None else None,  # it was not even entered
            ) from error

    def _turns(self, found: Any, method: str, expected: str) -> tuple[Message, ...]:
        strange = [one for one in found if not isinstance(one, dict)] if isinstance(found, list) else [found]
        if strange or not found:
            got = f"gave a {type(strange[0]).__name__}" if strange else "gave an empty list"
            raise self.wrong(method, got, expected)
        row = Row(self.file, defined_at(getattr(self.made, method)) or 1, {})
        return tuple(turns_in(row, Layout({}, WORDS), found, method, learns=False))


def check_environment(environment: str, resolve: Callable[[str], Path], /, **where: Any) -> EnvironmentClass:
    """The class that `file.py:Class` names. resolve: a path of the recipe. where: file, line, field of the recipe.

    Raises UserError where the file is not there or does not run, or has no class of that name that is an environment.
    """
    path, _, name = environment.rpartition(":")
    file = resolve(path)
    made: Any = load_named(file, name, **where)
    is_class = inspect.isclass(made)  # asked in the condition, mypy would forget that it may be any class
    if not is_class:
        raise UserError(f"{name} in {file} is no class", **where, expected=_EXPECTED)
    for method, told in _CALLED.items():
        function = getattr(made, method, None)
        if not callable(function):
            hint = did_you_mean(method, [key for key in vars(made) if not key.startswith("_")])
            raise UserError(f"{name} in {file} has no {method}{hint}", **where, expected=_EXPECTED)
        line, signature = defined_at(function), inspect.signature(function)
        if inspect.iscoroutinefunction(function):
            raise UserError(f"{name}.{method} is async", file=file, line=line, expected=_EXPECTED)
        try:
            signature.bind_partial(*told) if method == "reset" else signature.bind(*told)
        except TypeError as error:
            raise UserError(f"{name}.{method}: {error}", file=file, line=line, expected=_EXPECTED) from None
    taken = inspect.signature(made.reset).parameters.values()
    takes_any = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in taken)
    return EnvironmentClass(file, made, None if takes_any else frozenset(one.name for one in taken))


def episode_template(tokenizer: PreTrainedTokenizerBase, **where: Any) -> ChatTemplate:
    """A base's chat template. Raises UserError where it has none, or none that ends answers with a token."""
    template = template_of(tokenizer)
    if template is None or template.end_of_turn is None:
        lacks = "no chat template" if template is None else "a chat template that ends answers with no token"
        got = f"an environment speaks in messages, and the base {tokenizer.name_or_path} has {lacks}"
        raise UserError(got, **where, fix="give the recipe a `chat_template`, or take another base")
    return template


def play(
    environment: EnvironmentClass,
    prompts: Sequence[Record],
    answer: Callable[[Sequence[Asked], Sampling], list[Answered]],
    sampling: Sampling,
    tokenizer: PreTrainedTokenizerBase,
    *,
    num_samples: int,
    max_turns: int,
    max_new_tokens: int,
    max_length: int,
    seed: Callable[[int, int, int], int],
) -> list[tuple[Rollout, float]]:
    """`num_samples` episodes of each prompt, one prompt after the other, and what each one's environment rewarded it
    with. They are played side by side, one turn of all at a time.

    answer: as a pool's. sampling: its num_samples and max_new_tokens are set here. max_turns: answers of the policy.
    max_new_tokens: of the policy and the environment together; fewer where a prompt leaves no room for them within
    `max_length`. seed: of (prompt, sample, turn), each from 0.

    A rollout ends with a token of the policy. version: the oldest of its turns. text: of its last answer. finish:
    `length` where that was cut off, or what the environment says left no room for another; else `stop`.

    Raises UserError for a mistake of the environment's, and where its messages cannot be rendered.
    """
    speech = _Speech(environment, tokenizer)
    episodes = [
        _Episode(prompt, sample, record, *environment.reset(record))
        for prompt, record in enumerate(prompts)
        for sample in range(num_samples)
    ]
    for one in episodes:
        one.prompt_ids = speech.prompt_ids(one)
        one.room = min(max_new_tokens, max_length - len(one.prompt_ids))
        if one.room < 1:
            got = f"begins with {len(one.prompt_ids)} tokens, which leaves no room for an answer"
            raise environment.wrong("reset", got, f"fewer than max_length, {max_length}")
    stops = (*sampling.stop_token_ids, speech.end)
    for turn in range(max_turns):
        playing = [one for one in episodes if one.finish is None]
        if not playing:
            break
        asked = [Asked((*one.prompt_ids, *one.output_ids), seed(one.prompt, one.sample, turn)) for one in playing]
        # All are drawn with the largest room and cut to their own: what is cut is distributed as if drawn with less.
        room = max(one.room for one in playing)
        drawn = answer(asked, replace(sampling, num_samples=1, max_new_tokens=room, stop_token_ids=stops))
        for one, answered in zip(playing, drawn, strict=True):
            _take_turn(one, answered, environment, speech, is_last=turn == max_turns - 1)
    return [(one.rollout(), one.reward) for one in episodes]


@dataclass
class _Episode:
    """turns: the conversation so far. room: tokens that may still come. version: the oldest so far."""

    prompt: int
    sample: int
    record: Record
    own: Environment
    turns: tuple[Message, ...]
    prompt_ids: list[int] = field(default_factory=list)
    room: int = 0
    output_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    mask: list[bool] = field(default_factory=list)
    version: int | None = None
    finish: Literal["stop", "length"] | None = None
    reward: float = 0.0

    def add(self, turns: Sequence[Message], ids: Sequence[int], logprobs: Sequence[float] | None = None) -> None:
        """What the policy said, or without log-probabilities the environment."""
        self.turns += tuple(turns)
        self.output_ids += ids
        self.logprobs += [0.0] * len(ids) if logprobs is None else logprobs
        self.mask += [logprobs is not None] * len(ids)
        self.room -= len(ids)

    def rollout(self) -> Rollout:
        """Once it has ended."""
        assert self.finish is not None and self.version is not None
        prompt_ids, output_ids = np.array(self.prompt_ids, np.int32), np.array(self.output_ids, np.int32)
        logprobs, mask = np.array(self.logprobs, np.float32), np.array(self.mask, bool)
        told = self.version, self.finish, self.turns[-1].content
        return Rollout(self.prompt, self.sample, prompt_ids, output_ids, logprobs, mask, *told)


def _take_turn(
    one: _Episode, answered: Answered, environment: EnvironmentClass, speech: _Speech, *, is_last: bool
) -> None:
    """Takes an answer of the policy and what the environment says to it, and ends the episode where it is to end."""
    (said,) = answered.completions
    ids, is_cut = said.token_ids[: one.room], said.finish_reason != "stop" or len(said.token_ids) > one.room
    text = said.text if len(ids) == len(said.token_ids) else speech.text(ids)
    one.version = answered.version if one.version is None else min(one.version, answered.version)
    one.add([Message("assistant", text)], ids, said.logprobs[: len(ids)])
    added, reward = environment.step(one.own, one.turns, one.record)
    one.reward += reward
    if is_cut:
        one.finish = "length"
    elif not added or is_last or ids[-1] != speech.end:  # another token ends not the turn but the text
        one.finish = "stop"
    else:
        following = speech.following_ids(one, added)
        if len(following) < one.room:
            one.add(added, following)
        else:
            one.finish = "length"


class _Speech:
    """Messages as tokens. end: the end-of-turn token."""

    def __init__(self, environment: EnvironmentClass, tokenizer: PreTrainedTokenizerBase) -> None:
        self._environment, self._tokenizer = environment, tokenizer
        self._template = episode_template(tokenizer)
        self._end_of_turn = str(self._template.end_of_turn)
        self.end: int = tokenizer.convert_tokens_to_ids(self._end_of_turn)  # type: ignore[assignment]

    def text(self, ids: Sequence[int]) -> str:
        """As the engine gives it, without special tokens."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def prompt_ids(self, one: _Episode) -> list[int]:
        """What an episode begins with, as serving sends it."""
        asked = Record(one.record.file, one.record.line, prompt=Prompt(one.turns), tools=one.record.tools)
        return self._ids(self._rendered("reset", lambda: self._template.render(asked).text))

    def following_ids(self, one: _Episode, added: Sequence[Message]) -> list[int]:
        """What stands between the end-of-turn token of the last answer and the next answer."""
        text = self._rendered("step", lambda: self._template.following(one.turns[:-1], added, one.record))
        # After the token before it, since some of them take the white space behind them along.
        ids = self._ids(self._end_of_turn + text)
        return ids[ids.index(self.end) + 1 :]

    def _rendered(self, method: str, render: Callable[[], str]) -> str:
        try:
            return render()
        except UserError as error:
            fix = "give messages of other roles, or use another template (the recipe's `chat_template`)"
            raise self._environment.wrong(method, f"gave messages, but {error.got}", fix=fix) from None

    def _ids(self, text: str) -> list[int]:
        found: list[int] = self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return found
