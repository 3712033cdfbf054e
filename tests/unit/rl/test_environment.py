"""Environments: a scripted policy plays episodes with the bundled base's tokens, and what its environments may do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from fettle.data.record import Message, Prompt, Record
from fettle.engine.sampling import Completion, Sampling
from fettle.errors import UserError
from fettle.models.base import BUNDLED, load_tokenizer, resolve_template
from fettle.rl.engines import Answered, Asked
from fettle.rl.environment import EnvironmentClass, check_environment, episode_template, play
from fettle.rl.rollout import Rollout

CALCULATOR = Path(__file__).parents[3] / "recipes" / "environments" / "calculator.py"
SUM = Record(Path("p.jsonl"), 1, prompt=Prompt((Message("user", "Add 2 and 3."),)), columns={"answer": "5", "level": 1})
NUM_PROMPT_TOKENS = 17
END = "<|im_end|>"
USERS = '[{"role": "user", "content": "Go on."}]'
RESET = "class C:\n def reset(self, prompt): ...\n "
GO_ON = f"\n<|im_start|>user\nGo on.{END}\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer(BUNDLED["tiny"])


@pytest.fixture
def ids(tokenizer: Any) -> Callable[[str], list[int]]:
    """`ids(text)`: its tokens."""
    return lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]


class Scripted:
    """A policy that says what was written for each sample, a text a turn; each token has the log-probability −(1 + its
    place), and the version is 9 less the turn. Seeds are 10 × sample + turn."""

    def __init__(self, tokenizer: Any, *scripts: Sequence[str]) -> None:
        self._tokenizer, self._scripts = tokenizer, scripts
        self.asked: list[tuple[Sequence[Asked], Sampling]] = []

    def __call__(self, asked: Sequence[Asked], sampling: Sampling) -> list[Answered]:
        self.asked.append((asked, sampling))
        return [self._answered(*divmod(one.seed, 10), sampling.max_new_tokens) for one in asked]

    def _answered(self, sample: int, turn: int, room: int) -> Answered:
        said = self._tokenizer(self._scripts[sample][turn], add_special_tokens=False)["input_ids"]
        ids, finish = tuple(said[:room]), "stop" if len(said) <= room else "length"
        text = self._tokenizer.decode(ids, skip_special_tokens=True)
        return Answered((Completion(ids, tuple(-1.0 - place for place in range(len(ids))), text, finish),), 9 - turn)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], EnvironmentClass]:
    """`write(source)`: the class `C` in a file with that content."""

    def write(source: str) -> EnvironmentClass:
        (tmp_path / "env.py").write_text(source)
        return check_environment("env.py:C", lambda path: tmp_path / path, file="recipe.yaml", line=9, field="align")

    return write


@pytest.fixture
def speaks(write: Callable[[str], EnvironmentClass]) -> Callable[..., EnvironmentClass]:
    """`speaks(says, begins)`: an environment whose step and reset return these expressions; `self.turn` counts from 1,
    and what it was shown is in `seen` of its module."""

    def speaks(says: str = USERS, begins: str = "None") -> EnvironmentClass:
        return write(
            "seen = []\n\n\nclass C:\n    def reset(self, prompt, **columns):\n        self.turn = 0\n"
            f"        seen.append((prompt, columns))\n        return {begins}\n\n"
            "    def step(self, messages):\n        self.turn += 1\n"
            f"        seen.append(messages)\n        return {says}\n"
        )

    return speaks


@pytest.fixture
def played(tokenizer: Any) -> Callable[..., list[tuple[Rollout, float]]]:
    """`played(environment, policy, record, …)`: by default one episode of the sum."""

    def played(environment: EnvironmentClass, policy: Any, record: Record = SUM, **told: Any) -> Any:
        limits = {"num_samples": 1, "max_turns": 4, "max_new_tokens": 200, "max_length": 512} | told
        base, seed = limits.pop("tokenizer", tokenizer), lambda _, sample, turn: 10 * sample + turn
        return play(environment, [record], policy, Sampling(temperature=0.7), base, seed=seed, **limits)

    return played


def test_the_environments_tokens_stand_between_the_policys_without_loss_or_logprobs(speaks, played, tokenizer, ids):
    policy = Scripted(tokenizer, ["Hello." + END, "Bye." + END])
    ((rollout, _),) = played(speaks(f"{USERS} if self.turn == 1 else None"), policy)
    first, between, last = ids("Hello." + END), ids(GO_ON), ids("Bye." + END)
    assert rollout.output_ids.tolist() == [*first, *between, *last]
    assert rollout.mask.tolist() == [True] * len(first) + [False] * len(between) + [True] * len(last)
    spoken = [[-1.0 - place for place in range(len(said))] for said in (first, last)]
    assert rollout.logprobs.tolist() == [*spoken[0], *[0.0] * len(between), *spoken[1]]
    assert (rollout.finish, rollout.text, rollout.version) == ("stop", "Bye.", 8)  # turn 0 had 9, turn 1 has 8


@pytest.mark.parametrize("role", ["user", "tool"])
@pytest.mark.parametrize("template", [None, "chatml", "qwen"])
def test_an_episodes_tokens_are_those_of_its_rendered_conversation(speaks, played, ids, template, role):
    tokenizer = load_tokenizer(BUNDLED["tiny"], resolve_template(template) if template else None)
    policy = Scripted(tokenizer, ["Well, one." + END, "Two." + END, "Three." + END])
    said = {"role": role, "content": f"More, please. No {END} of yours."}
    ((rollout, _),) = played(speaks(f"[{said}] if self.turn < 3 else None"), policy, tokenizer=tokenizer)
    said["content"] = said["content"].replace("<", "<\u200b")  # a token's name in a message is text
    one, two, three = ({"role": "assistant", "content": text} for text in ("Well, one.", "Two.", "Three."))
    chat = [{"role": "user", "content": "Add 2 and 3."}, one, said, two, said, three]
    whole = tokenizer.apply_chat_template(chat, tokenize=False)
    whole = whole.replace("<think>\n\n</think>\n\n", "").rstrip("\n")  # Qwen's, of a last answer
    assert [*rollout.prompt_ids, *rollout.output_ids] == ids(whole)


def test_what_the_policy_sampled_is_kept_where_its_text_has_other_tokens(speaks, played, tokenizer, ids):
    odd = (*ids("He"), *ids("l"), *ids("lo"), tokenizer.convert_tokens_to_ids(END))
    assert list(odd) != ids("Hello" + END)
    answer = lambda asked, sampling: [Answered((Completion(odd, (-1.0,) * len(odd), "Hello", "stop"),), 0)]  # noqa: E731
    ((rollout, _),) = played(speaks(), answer, max_turns=2)
    assert rollout.output_ids.tolist() == [*odd, *ids(GO_ON), *odd]


def test_each_turn_asks_only_the_episodes_that_go_on_with_all_that_was_said(speaks, played, tokenizer, ids):
    policy = Scripted(tokenizer, ["Once." + END], ["Go." + END, "Go." + END, "No." + END], ["Go." + END, "No." + END])
    found = played(speaks(f"{USERS} if messages[-1]['content'] == 'Go.' else None"), policy, num_samples=3)
    assert [[one.seed for one in asked] for asked, _ in policy.asked] == [[0, 10, 20], [11, 21], [12]]
    assert [(one.prompt, one.sample, one.version) for one, _ in found] == [(0, 0, 9), (0, 1, 7), (0, 2, 8)]
    assert policy.asked[1][0][0].prompt_ids == (*found[1][0].prompt_ids, *ids("Go." + END), *ids(GO_ON))
    assert {(told.num_samples, told.temperature) for _, told in policy.asked} == {(1, 0.7)}


@pytest.mark.parametrize("limit", [{"max_new_tokens": 3}, {"max_length": NUM_PROMPT_TOKENS + 3}])
def test_an_answer_that_is_cut_off_ends_the_episode_and_is_still_rewarded(speaks, played, tokenizer, ids, limit):
    policy = Scripted(tokenizer, ["One two three four five." + END])
    ((rollout, reward),) = played(speaks(f"{USERS}, 0.5"), policy, **limit)
    assert (rollout.finish, reward) == ("length", 0.5)
    assert rollout.output_ids.tolist() == ids("One two three four five.")[:3]


def test_messages_that_leave_no_room_to_answer_end_the_episode_before_them(speaks, played, tokenizer, ids):
    said, between = ids("One." + END), ids(GO_ON)
    room = len(said) + len(between)
    policy = Scripted(tokenizer, ["One." + END, "Two." + END])
    ((short, _),) = played(speaks(), policy, max_new_tokens=room)
    ((longer, _),) = played(speaks(), policy, max_new_tokens=room + 1)
    assert (short.finish, short.output_ids.tolist()) == ("length", said)
    assert (longer.finish, longer.output_ids.tolist()) == ("length", [*said, *between, ids("Two.")[0]])


def test_each_episode_is_cut_to_its_own_room_where_others_have_more(speaks, played, tokenizer, ids):
    long = "One two three four five six." + END
    policy = Scripted(tokenizer, [long, long], ["One." + END, long])
    one, six, between = ids("One." + END), ids(long), ids(GO_ON)
    found = played(speaks(), policy, num_samples=2, max_turns=2, max_new_tokens=len(six) + len(between) + len(one))
    (mine, _), (other, _) = found  # after one turn there is room for len(one) tokens, and for len(six)
    assert policy.asked[1][1].max_new_tokens == len(six)
    assert (mine.finish, mine.text) == ("length", tokenizer.decode(six[: len(one)]))
    assert mine.output_ids.tolist() == [*six, *between, *six[: len(one)]]
    assert (other.finish, other.text) == ("stop", "One two three four five six.")


def test_the_last_turn_is_rewarded_and_what_the_environment_says_then_is_dropped(speaks, played, tokenizer, ids):
    policy = Scripted(tokenizer, ["One." + END, "Two." + END])
    ((rollout, reward),) = played(speaks(f"{USERS}, self.turn * 0.25"), policy, max_turns=2)
    assert (rollout.finish, reward) == ("stop", 0.75)  # 0.25 + 0.5
    assert rollout.output_ids.tolist() == ids("One." + END + GO_ON + "Two." + END)


def test_a_token_that_ends_the_text_ends_the_episode(speaks, played, tokenizer):
    policy = Scripted(tokenizer, ["One.<|endoftext|>"])
    ((rollout, reward),) = played(speaks(f"{USERS}, 1"), policy)
    assert (rollout.finish, reward, rollout.output_ids[-1]) == ("stop", 1.0, tokenizer.eos_token_id)


def test_an_environment_sees_the_conversation_and_its_columns_and_may_spoil_both(speaks, played, tokenizer):
    environment = speaks(f"messages.clear() or {USERS} if self.turn == 1 else None", "columns['level'].clear()")
    record = Record(Path("p.jsonl"), 1, prompt=SUM.prompt, columns={"prompt": "Add", "record": 1, "level": [1]})
    played(environment, Scripted(tokenizer, ["One." + END, "Two." + END]), record)
    first, _, last = environment.made.step.__globals__["seen"]
    assert first == ([{"role": "user", "content": "Add 2 and 3."}], {"record": 1, "level": []})
    assert [turn["content"] for turn in last] == ["Add 2 and 3.", "One.", "Go on.", "Two."]
    assert record.columns["level"] == [1]


def test_reset_may_begin_with_other_messages(speaks, played, tokenizer, ids):
    environment = speaks("None", "[{'role': 'system', 'content': 'Be brief.'}, *prompt]")
    ((rollout, _),) = played(environment, Scripted(tokenizer, ["One." + END]))
    expected = f"<|im_start|>system\nBe brief.{END}\n<|im_start|>user\nAdd 2 and 3.{END}\n<|im_start|>assistant\n"
    assert rollout.prompt_ids.tolist() == ids(expected)


@pytest.mark.parametrize(
    ("says", "begins", "message"),
    [
        ("1 / 0", "None", "13: C.step raised ZeroDivisionError: division by zero"),
        ("'Go on.'", "None", "10: C.step gave a str"),
        ("[]", "None", "10: C.step gave an empty list"),
        ("[{'role': 'user'}]", "None", "10: step.0.content: this key is missing"),
        ("[{'role': 'boss', 'content': ''}]", "None", "10: step.0.role: unknown role 'boss'"),
        ("[{'role': 'assistant', 'content': ''}]", "None", "10: C.step gave a message of the assistant's"),
        ("(None, 1, 2)", "None", "10: C.step gave a tuple of 3"),
        ("(None, float('nan'))", "None", "10: C.step gave nan as the reward"),
        ("None", "1 / 0", "8: C.reset raised ZeroDivisionError"),
        ("None", "{}", "5: C.reset gave a dict"),
        ("None", "[{'role': 'assistant', 'content': ''}]", "5: C.reset gave an answer as its last message"),
        ("None", "[prompt[0] | {'content': 'long ' * 600}]", "5: C.reset begins with "),
    ],
)
def test_an_environments_mistake_is_told_at_its_own_line(speaks, played, tokenizer, tmp_path, says, begins, message):
    with pytest.raises(UserError) as caught:
        played(speaks(says, begins), Scripted(tokenizer, ["One." + END]))
    assert str(caught.value).startswith(f"{tmp_path}/env.py:{message}")


def test_reset_is_given_the_columns_it_names_and_told_of_those_it_lacks(write, played, tokenizer):
    source = "class C:\n def reset(self, prompt, {}): self.seen = {}\n def step(self, messages): return None, self.seen"
    policy = Scripted(tokenizer, ["One." + END])
    assert [reward for _, reward in played(write(source.format("level", "level")), policy)] == [1.0]
    with pytest.raises(UserError) as caught:
        played(write(source.format("size", "size")), policy)
    assert "env.py:2: C.reset raised TypeError" in str(caught.value)
    assert "fix: the record has the columns answer, level" in str(caught.value)


def test_messages_that_the_template_leaves_out_are_told_at_the_step(speaks, played):
    one = "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    turns = "{% for m in messages if m.role != 'tool' %}" + one + "{% endfor %}<|im_start|>assistant\n"
    tokenizer = load_tokenizer(BUNDLED["tiny"], turns)
    with pytest.raises(UserError, match="env.py:10: C.step gave messages, but the chat template leaves out tool"):
        played(speaks("[{'role': 'tool', 'content': '5'}]"), Scripted(tokenizer, ["One." + END]), tokenizer=tokenizer)


@pytest.mark.parametrize("template", ["", "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"])
def test_a_base_whose_answers_no_template_ends_is_refused(template):
    with pytest.raises(UserError, match="align: an environment speaks in messages, and the base .* has"):
        episode_template(load_tokenizer(BUNDLED["tiny"], template), field="align")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def C(): ...", "recipe.yaml:9: align: C in env.py is no class"),
        ("class C: ...", "recipe.yaml:9: align: C in env.py has no reset"),
        (RESET + "def steps(self, m): ...", "C in env.py has no step (did you mean 'steps'?)"),
        ("class C:\n def reset(self): ...", "env.py:2: C.reset: too many positional arguments"),
        (RESET + "def step(self, m, n): ...", "env.py:3: C.step: missing a required"),
        (RESET + "async def step(self, m): ...", "env.py:3: C.step is async"),
        (RESET + "def __init__(self, n): ...", "env.py:3: C.__init__: missing a required"),
    ],
)
def test_what_is_no_environment_is_told_before_anything_starts(write, tmp_path, source, message):
    with pytest.raises(UserError) as caught:
        write(source)
    assert message in str(caught.value).replace(f"{tmp_path}/", "")


@pytest.fixture(scope="module")
def calculator() -> EnvironmentClass:
    return check_environment("calculator.py:Calculator", lambda path: CALCULATOR.parent / path)


def test_the_calculator_answers_a_call_and_ends_with_an_answer_without_one(calculator, played, tokenizer, ids):
    policy = Scripted(tokenizer, ["<calc>12*7</calc>" + END, "It is 84." + END])
    ((rollout, reward),) = played(calculator, policy)
    told = f"\n<|im_start|>user\nResult: 84{END}\n<|im_start|>assistant\n"
    assert rollout.output_ids.tolist() == ids("<calc>12*7</calc>" + END + told + "It is 84." + END)
    assert (rollout.finish, reward) == ("stop", 0.0)
    assert "<calc>12 * 7</calc>" in tokenizer.decode(rollout.prompt_ids)  # how to call it is told in the prompt


def test_the_calculator_ends_after_four_calls_and_charges_for_bad_ones(calculator, played, tokenizer):
    policy = Scripted(tokenizer, ["<calc>1 +</calc>" + END] * 8)
    ((_, reward),) = played(calculator, policy, max_turns=8, max_new_tokens=400)
    assert len(policy.asked) == 5
    assert reward == pytest.approx(-0.4)


@pytest.mark.parametrize(
    ("expression", "told"),
    [
        (" -(2 + 3) / 2 ", "Result: -2.5"),
        ("1 / 0", "Error: division by zero"),
        ("2 ** 9", "Error: only numbers, + - * / // % and parentheses"),
        ("__import__('os')", "Error: only numbers, + - * / // % and parentheses"),
        ("12 *", "Error: this is no expression"),
        ("1e308 * 10", "Error: the result is too large"),
    ],
)
def test_the_calculator_computes_sums_and_nothing_else(calculator, expression, told):
    said = calculator.made().step([{"role": "assistant", "content": f"<calc>{expression}</calc>"}])
    (message,) = said[0] if told.startswith("Error") else said
    assert message["content"] == told
