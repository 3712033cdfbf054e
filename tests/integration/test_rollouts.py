"""The rollout pool: engines in Ray actors answer as transformers does, take new versions, and are replaced."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from fettle.cluster import ray_session
from fettle.engine import EngineOptions
from fettle.engine.sampling import Sampling
from fettle.errors import FettleError
from fettle.rl.engines import Answered, Asked, Version
from fettle.rl.rollouts import RolloutPool

pytest.importorskip("vllm")
# float32 in another order of the sums.
TOLERANCE = 1e-4
OPTIONS = EngineOptions(max_model_len=128, max_num_seqs=16, threads=1, takes_weights="file")
SAMPLING = Sampling(max_new_tokens=16, temperature=1.0, num_samples=2)
ASKED = [Asked(tuple(range(3 + number, 11 + number)), seed=100 * number) for number in range(8)]


@pytest.fixture(scope="module")
def pool(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RolloutPool]:
    with ray_session(num_cpus=2):
        found = RolloutPool(tiny, OPTIONS, resources=[{}, {}], logs=tmp_path_factory.mktemp("logs"), sync_timeout_s=60)
        yield found
        found.close()


@pytest.fixture(scope="module")
def changed(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model's weights, a little different."""
    weights = {name: one.float() * 1.02 for name, one in load_file(tiny / "model.safetensors").items()}
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    file = tmp_path_factory.mktemp("weights") / "1.safetensors"
    save_file(weights, file)
    return file


@pytest.fixture(scope="module")
def broadcast(pool: RolloutPool, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RolloutPool]:
    """Engines that weights are sent to from this process's memory."""
    options = dataclasses.replace(OPTIONS, takes_weights="broadcast")
    found = RolloutPool(tiny, options, resources=[{}, {}], logs=tmp_path_factory.mktemp("logs"), sync_timeout_s=60)
    yield found
    found.close()


def tokens(answers: list[Answered]) -> list[list[tuple[int, ...]]]:
    return [[one.token_ids for one in answer.completions] for answer in answers]


def farthest(model: torch.nn.Module, answers: list[Answered]) -> float:
    """The largest difference between the sampler's log-probabilities and the model's."""
    worst = 0.0
    for asked, answer in zip(ASKED, answers, strict=True):
        for one in answer.completions:
            ids = torch.tensor([[*asked.prompt_ids, *one.token_ids]])
            with torch.no_grad():
                logprobs = model(ids).logits[0].log_softmax(-1)
            said = range(len(asked.prompt_ids), ids.shape[1])
            mine = [float(logprobs[place - 1, ids[0, place]]) for place in said]
            worst = max(worst, *(abs(a - b) for a, b in zip(mine, one.logprobs, strict=True)))
    return worst


def test_answers_are_drawn_by_their_seeds_with_the_policys_log_probabilities(pool: RolloutPool, tiny: Path) -> None:
    answers = pool.answer(ASKED, SAMPLING)

    assert {answer.version for answer in answers} == {0}
    assert farthest(AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32), answers) < TOLERANCE
    assert tokens(pool.answer(ASKED[::-1], SAMPLING))[::-1] == tokens(answers)


def test_a_version_is_taken_by_all_engines(pool: RolloutPool, tiny: Path, changed: Path) -> None:
    pool.sync(Version(1, changed))
    answers = pool.answer(ASKED, SAMPLING)

    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    model.load_state_dict(load_file(changed))
    assert {answer.version for answer in answers} == {1}
    assert farthest(model, answers) < TOLERANCE


def test_an_engine_that_is_killed_is_replaced_and_no_answer_is_lost_or_doubled(
    pool: RolloutPool, changed: Path
) -> None:
    pool.sync(Version(1, changed))
    long = Sampling(max_new_tokens=100, temperature=1.0, num_samples=8, ignore_eos=True)
    undisturbed = pool.answer(ASKED, long)
    killed = pool.processes[0]
    killer = threading.Timer(0.1, os.kill, (killed, signal.SIGKILL))

    killer.start()
    answers = pool.answer(ASKED, long)

    assert pool.processes[0] != killed
    assert {answer.version for answer in answers} == {1}
    assert tokens(answers) == tokens(undisturbed)


def test_a_version_that_an_engine_refuses_is_told_in_its_words_and_nothing_is_answered_by_it(
    pool: RolloutPool, changed: Path
) -> None:
    pool.sync(Version(1, changed))
    answers = pool.answer(ASKED, SAMPLING)
    with pytest.raises(FettleError, match="did not take version 7 of the policy: .*No such file"):
        pool.sync(Version(7, changed.with_name("no.safetensors")))
    with pytest.raises(FettleError, match="holds no whole version"):
        pool.answer(ASKED, SAMPLING)

    pool.sync(Version(1, changed))
    assert tokens(pool.answer(ASKED, SAMPLING)) == tokens(answers)


def test_an_engine_that_does_not_take_a_version_in_time_is_told(
    pool: RolloutPool, changed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "_sync_timeout_s", 1.0)
    os.kill(pool.processes[1], signal.SIGSTOP)
    try:
        with pytest.raises(FettleError, match="engine 1 did not take version 8 of the policy within 1 s"):
            pool.sync(Version(8, changed))
    finally:
        os.kill(pool.processes[1], signal.SIGCONT)


def test_weights_that_are_broadcast_are_taken_by_all_engines(
    pool: RolloutPool, broadcast: RolloutPool, changed: Path
) -> None:
    pool.sync(Version(1, changed))
    for number in (1, 2, 2):  # the second over the way that the first one made, the third by engines that have it
        broadcast.sync(Version(number, weights=load_file(changed)))

    answers = broadcast.answer(ASKED, SAMPLING)
    assert {answer.version for answer in answers} == {2}
    assert tokens(answers) == tokens(pool.answer(ASKED, SAMPLING))


def test_an_engine_that_is_killed_while_weights_are_broadcast_is_replaced_and_its_successor_has_them(
    broadcast: RolloutPool, changed: Path
) -> None:
    broadcast.sync(Version(3, weights=load_file(changed)))
    answers = broadcast.answer(ASKED, SAMPLING)
    killed = broadcast.processes[1]
    os.kill(killed, signal.SIGSTOP)  # the learner is in the midst of sending when it dies
    killer = threading.Timer(1.0, os.kill, (killed, signal.SIGKILL))

    killer.start()
    broadcast.sync(Version(4, weights=load_file(changed)))

    assert broadcast.processes[1] != killed
    again = broadcast.answer(ASKED, SAMPLING)
    assert {answer.version for answer in again} == {4}
    assert tokens(again) == tokens(answers)


def test_weights_that_are_not_all_there_are_told_by_the_engine_that_received_them(
    broadcast: RolloutPool, changed: Path
) -> None:
    weights = load_file(changed)
    del weights["model.norm.weight"]
    with pytest.raises(FettleError, match=r"version 5 of the policy: .*what was received has no model.norm.weight"):
        broadcast.sync(Version(5, weights=weights))

    broadcast.sync(Version(6, weights=load_file(changed)))
    assert {answer.version for answer in broadcast.answer(ASKED, SAMPLING)} == {6}


def test_of_a_policy_that_is_an_adapter_only_the_adapter_travels(
    tiny: Path, loras: dict[str, Path], tmp_path: Path
) -> None:
    options = EngineOptions(max_model_len=128, max_num_seqs=16, threads=1, max_loras=1, max_lora_rank=16)
    with ray_session(num_cpus=2):
        pool = RolloutPool(tiny, options, resources=[{}], logs=tmp_path)
        for number, name in enumerate(("polite", "brief"), start=1):
            pool.sync(Version(number, loras[name], is_adapter=True))
            model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
            answers = pool.answer(ASKED, SAMPLING)
            assert {answer.version for answer in answers} == {number}
            assert farthest(PeftModel.from_pretrained(model, loras[name]).eval(), answers) < TOLERANCE
        pool.close()
