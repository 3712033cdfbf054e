"""A data set's answers, from the words of the command to the rows, with engines that say what they were asked."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from bundled_adapter import write_bundled_adapter

from fettle.data.sources import open_source
from fettle.engine.sampling import Completion, Sampling
from fettle.errors import UserError
from fettle.models.base import BUNDLED, load_tokenizer
from fettle.pipeline import generating
from fettle.pipeline.generating import Generated, generate
from fettle.recipe.data import DataSpec
from fettle.registry.folder import FolderRegistry
from fettle.rl.engines import Answered, Asked
from fettle.serving.resolve import ServedModel

Say = Callable[..., list[dict[str, Any]]]
DRAWN = Sampling(8, 1.0, num_samples=2)


class Engines:
    """Answer with the seed, in batches of two that come last first. stops_after: batches until they are interrupted."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.served: ServedModel | None = None
        self.stops_after: int | None = None

    @contextmanager
    def pool(self, served: ServedModel, *_: Any) -> Iterator[Engines]:
        self.served = served
        yield self

    def answers(self, asked: Sequence[Asked], sampling: Sampling, most: int) -> Iterator[list[tuple[int, Answered]]]:
        firsts = range(0, len(asked), 2)
        for number, first in enumerate([*reversed(firsts[:2]), *firsts[2:]]):
            if number == self.stops_after:
                raise KeyboardInterrupt
            places = range(first, min(first + 2, len(asked)))
            self.asked += [asked[place] for place in places]
            yield [(place, _said(asked[place], sampling)) for place in places]


def _said(asked: Asked, sampling: Sampling) -> Answered:
    texts = [f"{asked.seed} {number}" for number in range(sampling.num_samples)]
    return Answered(tuple(Completion((5, 2), (0.0, 0.0), text, "stop") for text in texts), 0)


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> Engines:
    found = Engines()
    monkeypatch.setattr(generating, "_pool", found.pool)
    return found


@pytest.fixture
def make_adapter(tmp_path: Path) -> Callable[..., Path]:
    """`make_adapter(name)`: an artifact over the bundled model; template: a chat template of its own."""

    def make(name: str, template: str | None = None) -> Path:
        return write_bundled_adapter(tmp_path / name, name, template)

    return make


@pytest.fixture
def registry(tmp_path: Path, make_adapter: Callable[..., Path]) -> FolderRegistry:
    """`support`: 1 in production, 2 a candidate."""
    found = FolderRegistry(tmp_path / "registry")
    found.publish("support", make_adapter("first"), alias="production")
    found.publish("support", make_adapter("second"))
    return found


@pytest.fixture
def asking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Generated]:
    """`asking(*rows, **how)`: what `generate` does with a file of these rows, p.jsonl, and answers.jsonl."""
    monkeypatch.chdir(tmp_path)

    def ask(*rows: dict[str, Any], model: str | Path = "tiny", sampling: Sampling = DRAWN, **how: Any) -> Generated:
        (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        source = open_source(DataSpec(path="p.jsonl"), Path)
        return generate(model, source, tmp_path / "answers.jsonl", sampling, logs=tmp_path, **how)

    return ask


@pytest.fixture
def say(asking: Callable[..., Generated]) -> Say:
    """As `asking`; gives the rows that were written, and takes the file away."""

    def ask(*rows: dict[str, Any], **how: Any) -> list[dict[str, Any]]:
        out = asking(*rows, **how).out
        told = [json.loads(line) for line in out.read_text().splitlines()]
        out.unlink()
        return told

    return ask


def questions(count: int) -> list[dict[str, Any]]:
    return [{"prompt": f"What is {number}?"} for number in range(count)]


def test_a_row_tells_its_record_its_prompt_as_given_and_the_answers(engines: Engines, say: Say) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    (text,) = say({"prompt": "Why?", "completion": "So."})
    (chat,) = say({"messages": [*messages, {"role": "assistant", "content": "So."}]})

    seed = text["answers"][0]["text"].split()[0]
    said = [{"text": f"{seed} {number}", "finish_reason": "stop", "tokens": 2} for number in (0, 1)]
    assert text == {"index": 0, "file": "p.jsonl", "line": 1, "prompt": "Why?", "model": "tiny", "answers": said}
    assert chat["prompt"] == messages


def test_messages_need_no_answer_and_have_other_columns_then(engines: Engines, say: Say) -> None:
    why, how, so = ({"role": role, "content": role} for role in ("user", "user", "assistant"))
    rows = say({"messages": [why], "who": "tiny"}, {"messages": [why, so, how]}, model_column="who")

    assert [row["prompt"] for row in rows] == [[why], [why, so, how]]
    with pytest.raises(UserError, match=r"^p\.jsonl:2: this prompt ends with an answer"):
        say({"messages": [why]}, {"messages": [why, so]})


def test_prompts_are_rendered_as_in_training_and_end_as_in_serving(engines: Engines, say: Say) -> None:
    say({"prompt": "Why?"})

    tokenizer = load_tokenizer(BUNDLED["tiny"])
    (asked,) = engines.asked
    assert tokenizer.decode(asked.prompt_ids) == "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"
    assert set(asked.end_ids) == set(tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"]))


def test_rows_are_in_the_records_order_and_each_has_a_seed_of_its_own(engines: Engines, say: Say) -> None:
    rows = say(*questions(7))

    assert [row["prompt"] for row in rows] == [f"What is {number}?" for number in range(7)]
    assert [asked.seed for asked in engines.asked] != [int(row["answers"][0]["text"].split()[0]) for row in rows]
    assert len({asked.seed for asked in engines.asked}) == 7
    assert say(*questions(7), limit=3) == rows[:3]
    assert say(*questions(7), sampling=Sampling(8, 1.0, seed=1, num_samples=2)) != rows


def test_an_interrupted_run_goes_on_and_says_what_an_undisturbed_one_says(
    engines: Engines, asking: Callable[..., Generated], say: Say
) -> None:
    undisturbed = say(*questions(9))
    engines.stops_after, engines.asked = 3, []
    with pytest.raises(KeyboardInterrupt):
        asking(*questions(9))
    engines.stops_after, engines.asked = None, []

    found = asking(*questions(9))

    assert (found.rows, found.answered, len(engines.asked)) == (9, 3, 3)
    assert [json.loads(line) for line in found.out.read_text().splitlines()] == undisturbed


@pytest.mark.parametrize("how", [{"sampling": Sampling(8, 0.5, num_samples=2)}, {"limit": 8}, {"dtype": "bfloat16"}])
def test_other_settings_do_not_go_on_with_what_was_left(
    engines: Engines, asking: Callable[..., Generated], how: dict[str, Any]
) -> None:
    engines.stops_after = 2
    with pytest.raises(KeyboardInterrupt):
        asking(*questions(9))

    with pytest.raises(UserError, match="an interrupted run with other settings"):
        asking(*questions(9), **how)


def test_records_choose_who_answers_them(engines: Engines, say: Say, make_adapter: Callable[..., Path]) -> None:
    names = ["brief", None, "tiny", "brief", ""]
    rows = say(
        *({"prompt": "Why?", "who": name} for name in names),
        {"prompt": "Why?"},
        model_column="who",
        adapters={"brief": make_adapter("brief", template="llama3"), "unused": make_adapter("unused")},
    )

    assert [row["model"] for row in rows] == ["brief", "tiny", "tiny", "brief", "tiny", "tiny"]
    assert engines.served is not None and [one.name for one in engines.served.adapters] == ["brief"]
    adapters = {asked.seed: asked.adapter for asked in engines.asked}
    assert [adapters[int(row["answers"][0]["text"].split()[0])] for row in rows[:3]] == ["brief", None, None]
    assert {one.adapter: len(one.prompt_ids) for one in engines.asked}.keys() == {"brief", None}
    assert len({(one.adapter, one.prompt_ids, one.end_ids) for one in engines.asked}) == 2


def test_a_published_name_means_one_version_and_the_rows_say_which(
    engines: Engines, say: Say, registry: FolderRegistry
) -> None:
    names = ["support", "support@candidate", "support:1"]
    rows = say(*({"prompt": "?", "who": name} for name in names), model_column="who", registry=registry.root)

    first, second = registry.versions("support")
    assert [row["model"] for row in rows] == names
    assert [row["version"] for row in rows] == ["support:1", "support:2", "support:1"]
    assert [row["digest"] for row in rows] == [first.digest, second.digest, first.digest]
    assert engines.served is not None
    assert {one.name: one.folder for one in engines.served.adapters} == {
        first.id: first.folder,
        second.id: second.folder,
    }


def test_an_alias_that_moved_does_not_go_on_with_the_rows_of_the_version_before(
    engines: Engines, asking: Callable[..., Generated], registry: FolderRegistry
) -> None:
    engines.stops_after = 2
    with pytest.raises(KeyboardInterrupt):
        asking(*questions(9), model_name="support", registry=registry.root)
    registry.point("support", "production", 2)

    with pytest.raises(UserError, match=r"other settings \(adapters\)"):
        asking(*questions(9), model_name="support", registry=registry.root)


def test_files_that_are_not_those_that_were_published_answer_nothing(
    asking: Callable[..., Generated], registry: FolderRegistry
) -> None:
    (registry.versions("support")[0].folder / "README.md").write_text("added")

    with pytest.raises(UserError, match="the files of support:1 are not those that were published"):
        asking(*questions(1), model_name="support", registry=registry.root)


@pytest.mark.parametrize(
    ("rows", "how", "told"),
    [
        ([{"prompt": "?"}], {"model_name": "tony"}, r"^--model-name: no model 'tony' \(did you mean 'tiny'\?\)"),
        ([{"prompt": "?"}], {"model_name": "support"}, "--registry FOLDER, if it is published there"),
        ([{"prompt": "?"}, {"prompt": "?", "who": "no"}], {"model_column": "who"}, r"^p\.jsonl:2: who: no model 'no'"),
        ([{"prompt": "?", "who": 7}], {"model_column": "who"}, r"^p\.jsonl:1: who: 7 is no model's name"),
        ([{"prompt": "?", "who": "tiny"}], {"model_column": "whom"}, r"^--model-column: no record has.*'who'"),
        ([{"text": "Once."}], {}, r"^p\.jsonl:1: a record of kind text that asks nothing"),
        ([{"prompt": "?"}, {"prompt": "x " * 600}], {}, r"^p\.jsonl:2: 1 of 2 prompts leave no room for 8 new tokens"),
        ([{"prompt": "?"}], {"max_model_len": 10}, r"^p\.jsonl:1: 1 of 1 prompts leave .* within 10; the first"),
        ([{"prompt": "?"}], {"sampling": Sampling(8, 0.0, num_samples=2)}, "^--samples: at temperature 0"),
        ([{"prompt": "?"}], {"sampling": Sampling(8, 0.0, top_p=0.9)}, "^--top-p: at temperature 0"),
        ([{"prompt": "?"}], {"sampling": Sampling(8, -1.0)}, "^--temperature: -1 is not possible"),
        ([{"prompt": "?"}], {"sampling": Sampling(8, 1.0, num_samples=65)}, "^--samples: 65 is not possible"),
        ([{"prompt": "?"}], {"dtype": "float"}, "unknown dtype 'float'"),
    ],
)
def test_a_mistake_is_told_before_an_engine_starts(
    engines: Engines, asking: Callable[..., Generated], tmp_path: Path, rows: Any, how: dict[str, Any], told: str
) -> None:
    with pytest.raises(UserError, match=told):
        asking(*rows, **how)

    assert engines.served is None
    assert list(tmp_path.glob("answers*")) == []
