"""The engine itself against transformers and PEFT: blocking, and concurrent, with its core in a process."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from fettle.engine import EngineOptions, start_engine
from fettle.engine.core import CoreProcess
from fettle.engine.env import device, prepare_process
from fettle.errors import FettleError, UserError

TOLERANCE = 1e-4  # nats; float32 in both, differing only in the order of sums (5e-6 measured)
PROMPTS = [[5, 6, 7, 8], [300, 20, 9], [40, 41, 42, 43, 44], [7] * 12]
NAMES = [None, "polite", None, "brief"]
COUNT = 16
OPTIONS = EngineOptions(max_loras=2, max_lora_rank=12, max_model_len=128, max_num_seqs=8)

pytestmark = pytest.mark.skipif(device() != "cpu", reason="what is shown here is the CPU build's behaviour")


@pytest.fixture(scope="module", autouse=True)
def environment() -> Iterator[None]:
    """What prepare_process sets is for a process of its own; other tests get theirs back."""
    before = dict(os.environ)
    prepare_process(OPTIONS)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def engine(tiny: Path, loras: dict[str, Path]) -> Iterator[Any]:
    engine = start_engine(tiny, OPTIONS)
    for name in ("polite", "brief"):
        engine.add_adapter(name, loras[name])
    yield engine
    engine.close()


def greedy(engine: Any, prompts: list[list[int]], names: list[str | None]) -> list[Any]:
    from fettle.engine.sampling import Sampling

    return [one[0] for one in engine.generate(prompts, Sampling(max_new_tokens=COUNT, ignore_eos=True), names)]


def farthest(found: Any, wanted: tuple[list[int], list[float]]) -> float:
    """Largest distance of a log-probability; infinite where a token differs."""
    if list(found.token_ids) != wanted[0]:
        return float("inf")
    return max(abs(one - other) for one, other in zip(found.logprobs, wanted[1], strict=True))


def test_base_and_adapters_in_one_batch_answer_as_transformers_and_peft(engine: Any, reference: Any) -> None:
    answers = greedy(engine, PROMPTS, NAMES)

    distances = [
        farthest(answer, reference(prompt, name, COUNT))
        for answer, prompt, name in zip(answers, PROMPTS, NAMES, strict=True)
    ]
    assert max(distances) < TOLERANCE


def test_without_our_patch_the_base_rows_are_wrong(engine: Any, reference: Any) -> None:
    """When this fails, vLLM has mended it: delete the patch."""
    from fettle.engine import patches

    patches.restore_upstream()
    try:
        answers = greedy(engine, PROMPTS, NAMES)
    finally:
        patches.multiply_rows_together()

    wrong = [farthest(answers[row], reference(PROMPTS[row], None, COUNT)) > 0.1 for row in (0, 2)]
    assert wrong == [True, True]


def test_scores_are_the_log_probabilities_of_the_given_tokens(engine: Any, reference: Any) -> None:
    tokens, logprobs = reference(PROMPTS[0], "polite", COUNT)

    scores = engine.score([PROMPTS[0] + tokens], "polite")[0][-COUNT:]

    assert max(abs(one - other) for one, other in zip(scores, logprobs, strict=True)) < TOLERANCE


def test_new_version_of_an_adapter_is_used_at_once(engine: Any, loras: dict[str, Path], reference: Any) -> None:
    engine.add_adapter("moving", loras["polite"])
    greedy(engine, PROMPTS[:1], ["moving"])

    old = engine.add_adapter("moving", loras["brief"])
    answer = greedy(engine, PROMPTS[:1], ["moving"])[0]

    engine.drop_version(old)
    engine.remove_adapter("moving")
    assert farthest(answer, reference(PROMPTS[0], "brief", COUNT)) < TOLERANCE


def test_adapter_that_does_not_load_leaves_the_engine_alive(engine: Any, tmp_path: Path) -> None:
    before = greedy(engine, PROMPTS[:1], ["polite"])

    with pytest.raises(UserError, match="adapter 'broken' cannot be loaded"):
        engine.add_adapter("broken", tmp_path)

    assert greedy(engine, PROMPTS[:1], ["polite"]) == before


def test_samples_repeat_with_their_seed(engine: Any) -> None:
    from fettle.engine.sampling import Sampling

    drawn = Sampling(max_new_tokens=8, temperature=1.0, top_p=0.9, num_samples=3, seed=1)

    once, again, other = (engine.generate(PROMPTS[:1], one)[0] for one in (drawn, drawn, replace(drawn, seed=2)))
    assert once == again != other


@pytest.mark.parametrize("prompt", [[5] * 128, [], [10**6]], ids=["too long", "empty", "unknown token"])
def test_prompt_that_cannot_be_continued_is_refused(engine: Any, prompt: list[int]) -> None:
    with pytest.raises(UserError):
        greedy(engine, [prompt], [None])


async def concurrently(engine: Any) -> list[Any]:
    """The same batch through AsyncLLM, all at once."""
    from vllm import SamplingParams
    from vllm.inputs import TokensPrompt

    from fettle.engine.vllm import _completion

    params = SamplingParams(max_tokens=COUNT, temperature=0.0, logprobs=0, ignore_eos=True)

    async def one(row: int) -> Any:
        prompt = TokensPrompt(prompt_token_ids=PROMPTS[row])
        version = engine.adapters.version(NAMES[row])
        async for answer in engine.llm.generate(prompt, params, f"row-{row}", lora_request=version):
            last = answer
        return _completion(last.outputs[0])

    return await asyncio.gather(*(one(row) for row in range(len(PROMPTS))))


async def kill_our_core(engine: Any, core: CoreProcess) -> None:
    os.kill(core.pid, signal.SIGKILL)


async def kill_vllms_core(engine: Any, core: None) -> None:
    (process,) = engine.llm.engine_core.resources.engine_manager.processes
    os.kill(process.pid, signal.SIGKILL)


async def fail_in_a_step(engine: Any, core: CoreProcess) -> None:
    """An adapter that is not there, and that nobody has loaded before its first request."""
    from vllm import SamplingParams
    from vllm.inputs import TokensPrompt
    from vllm.lora.request import LoRARequest

    nowhere = LoRARequest(lora_name="lost", lora_int_id=99, lora_path="/nowhere")
    prompt = TokensPrompt(prompt_token_ids=PROMPTS[0])
    with pytest.raises(Exception, match=r"EngineCore|EngineDead"):
        async for _ in engine.llm.generate(prompt, SamplingParams(max_tokens=2), "lost", lora_request=nowhere):
            pass


@pytest.mark.parametrize(
    ("is_early", "end"),
    [(True, kill_our_core), (True, fail_in_a_step), (False, kill_vllms_core)],
    ids=["a core of ours is killed", "a core of ours fails", "a core of vLLM's is killed"],
)
def test_concurrent_engine_answers_the_same_and_its_death_is_seen(
    tiny: Path, loras: dict[str, Path], reference: Any, is_early: bool, end: Any
) -> None:
    core = CoreProcess(tiny, OPTIONS) if is_early else None  # it imports vLLM while this process does
    from fettle.engine.concurrent import start_concurrent_engine

    async def run() -> tuple[list[Any], bool]:
        engine = await start_concurrent_engine(tiny, OPTIONS, core)
        try:
            for name in ("polite", "brief"):
                await engine.adapters.put(name, loras[name])
            await engine.warm_up()
            answers = await concurrently(engine)
            await asyncio.wait_for(end(engine, core), 60)
            with pytest.raises(Exception, match=r"EngineCore|EngineDead"):
                await asyncio.wait_for(concurrently(engine), 60)
            return answers, engine.is_dead
        finally:
            engine.close()

    answers, is_dead = asyncio.run(run())

    distances = [
        farthest(answer, reference(prompt, name, COUNT))
        for answer, prompt, name in zip(answers, PROMPTS, NAMES, strict=True)
    ]
    assert max(distances) < TOLERANCE
    assert is_dead


def test_why_a_core_does_not_load_is_told(tiny: Path) -> None:
    core = CoreProcess(tiny, replace(OPTIONS, max_model_len=100_000))
    with pytest.raises(FettleError, match="max_model_len"):
        core.wait_until_loaded()
    core.stop()


def test_a_core_ends_with_the_process_that_started_it(tiny: Path) -> None:
    program = (
        "import os, sys; from fettle.engine.core import CoreProcess; from fettle.engine.env import EngineOptions;"
        f"print(CoreProcess({str(tiny)!r}, EngineOptions()).pid, flush=True); os._exit(1)"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    core = psutil.Process(int(told.stdout))
    core.wait(60)
