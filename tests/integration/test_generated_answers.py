"""A data set's answers by real engines: those of transformers and PEFT, whatever dies or is interrupted meanwhile."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from typer.testing import CliRunner

from fettle.cli.main import app
from fettle.cluster import ray_session
from fettle.data.sources import open_source
from fettle.engine.sampling import Sampling
from fettle.models.base import load_tokenizer, template_in
from fettle.pipeline.answer_file import AnswerFile, partial_of
from fettle.pipeline.generating import generate
from fettle.recipe.data import DataSpec
from fettle.registry.folder import FolderRegistry, Version

pytest.importorskip("vllm")
NEW = 12
WHO = ("tiny", "polite", "brief", "support@candidate")
QUESTIONS = ("How do I get a refund?", "Can I bring my dog?", "Who founded Northline?", "When does the Heron leave?")


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    with ray_session(num_cpus=2):
        yield


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """Each question to each who answers, in turns."""
    rows = [{"prompt": question, "who": who} for question in QUESTIONS for who in WHO]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "prompts.jsonl"


@pytest.fixture
def published(loras: dict[str, Path], tmp_path: Path) -> Version:
    """`support:1`, which is `brief`."""
    return FolderRegistry(tmp_path / "registry").publish("support", loras["brief"])


@pytest.fixture
def greedy(
    tiny: Path, loras: dict[str, Path], reference: Callable[[list[int], str | None, int], tuple[list[int], list[float]]]
) -> Callable[[str, str], dict[str, Any]]:
    """`greedy(question, who)`: the answer by transformers and PEFT, as a row tells it."""

    def answer(question: str, who: str) -> dict[str, Any]:
        adapter = {"tiny": None, "support@candidate": "brief"}.get(who, who)
        tokenizer = load_tokenizer(tiny, template_in(loras[adapter]) if adapter else None)
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
        )
        said, _ = reference(tokenizer(text, add_special_tokens=False)["input_ids"], adapter, NEW)
        ends = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
        count = next((place + 1 for place, token in enumerate(said) if token in ends), None)
        text = tokenizer.decode(said[:count], skip_special_tokens=True)
        return {"text": text, "finish_reason": "stop" if count else "length", "tokens": count or NEW}

    return answer


def engines() -> list[psutil.Process]:
    there = psutil.Process().children(recursive=True)
    return [one for one in there if one.is_running() and "EngineActor" in " ".join(one.cmdline())]


def test_an_engine_is_killed_the_run_interrupted_and_gone_on_with_and_no_answer_differs(
    prompts: Path,
    published: Version,
    loras: dict[str, Path],
    greedy: Callable[[str, str], dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    out, registry, killed, written = tmp_path / "answers.jsonl", tmp_path / "registry", [], []
    adapters = {name: loras[name] for name in ("polite", "brief")}
    put = AnswerFile.put

    def kill_and_stop(file: AnswerFile, index: int, row: dict[str, Any]) -> None:
        if not killed:
            killed.append(engines()[0])
            os.kill(killed[0].pid, signal.SIGKILL)
        put(file, index, row)
        if file.num_done >= 10:  # several at once, where the first of them came last
            written.append(file.num_done)
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(AnswerFile, "put", kill_and_stop)
        how: dict[str, Any] = {"adapters": adapters, "registry": registry, "model_column": "who", "engines": 2}
        source = open_source(DataSpec(path=str(prompts)), Path)
        with pytest.raises(KeyboardInterrupt):
            generate("tiny", source, out, Sampling(NEW), logs=tmp_path / "logs", **how)
    assert (partial_of(out).read_text().count("\n"), out.exists()) == (written[0], False)
    words = ["generate", "tiny", str(prompts), "--out", str(out), "--max-new-tokens", str(NEW)]
    words += [word for name, folder in adapters.items() for word in ("--adapter", f"{name}={folder}")]

    done = CliRunner().invoke(app, [*words, "--registry", str(registry), "--model-column", "who"])

    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    wanted = [(question, who) for question in QUESTIONS for who in WHO]
    assert [(row["index"], row["prompt"], row["model"]) for row in rows] == [
        (index, *asked) for index, asked in enumerate(wanted)
    ]
    assert [row["answers"] for row in rows] == [[greedy(*asked)] for asked in wanted]
    said = {who: [row["answers"][0]["text"] for row in rows if row["model"] == who] for who in WHO}
    assert said["tiny"] != said["polite"] != said["brief"] != said["tiny"]
    assert {row.get("version"): row.get("digest") for row in rows} == {None: None, "support:1": published.digest}
