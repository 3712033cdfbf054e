"""The sides that a GRPO step of fettle is measured against, each in a process of its own, which prints one JSON line.

    python benchmarks/rl_sides.py trl|trl-vllm|bare|beside --case small|ragged [--steps 4] [--threads 1]

trl: TRL's GRPOTrainer, whose rollouts are transformers' `generate`. trl-vllm: the same with vLLM in its own process
(`colocate`), which wants a GPU: on a CPU vLLM's weights have no `weight_loader` by the first sync; that is in what it
generates. bare: vLLM's generate, one exactly packed forward and backward and an optimizer step, with no framework: the
limit. beside: bare's generate in a second process while it learns from the answers before, which is what a machine has
to give to max_staleness 1. All in float32 on the same threads, with the same prompts, sampling (temperature 1, all
tokens), end tokens, reward, advantages, loss (clipped, over the step's tokens) and optimizer. The first step is a
warm-up.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from fettle.data.batches import IGNORE, collate_parts, share_out
from fettle.data.tokens import TokenExample
from fettle.engine import EngineOptions, start_engine
from fettle.engine.env import prepare_process
from fettle.engine.sampling import Completion, Sampling
from fettle.rl.advantages import group_normalised
from fettle.rl.policy_losses import clipped
from fettle.train.logprobs import whole
from rl_case import (
    CASES,
    CLIP,
    LR,
    MAX_MODEL_LEN,
    MODEL,
    Case,
    Clock,
    Step,
    rendered_prompts,
    reward,
    stop_ids,
    summary,
)

_MICRO_TOKENS = 4096
_TRL_MICRO_BATCH = 8  # answers; of 8, 16, 32 and 64 the fastest at `small` (5.9, 6.0, 6.2, 7.3 s, 2026-11)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", choices=("trl", "trl-vllm", "bare", "beside"))
    parser.add_argument("--case", choices=tuple(CASES), default="small")
    parser.add_argument("--steps", type=int, default=4, help="the warm-up included; at least 2")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    case, num_steps = CASES[options.case], max(2, options.steps)
    if options.side == "beside":
        found = beside(case, num_steps, options.threads)
    else:
        sides = {"bare": bare_steps, "trl": trl_steps, "trl-vllm": functools.partial(trl_steps, has_vllm=True)}
        found = summary(sides[options.side](case, num_steps, options.threads))
    print(json.dumps(vars(options) | found))


def bare_steps(case: Case, num_steps: int, threads: int) -> list[Step]:
    """Steps of the hand-written loop."""
    ids = _prompt_ids(case, num_steps)
    engine, sampling = _engine(case, threads)
    learner = _Learner()
    steps = []
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        for number in range(num_steps):
            asked = ids[number]
            began = Clock.now()
            answers = engine.generate(asked, sampling)
            generated = Clock.now()
            learner.step(asked, answers)
            learned = Clock.now()
            learner.save(Path(folder) / "weights.safetensors")
            engine.take_weights(Path(folder) / "weights.safetensors")
            synced = Clock.now()
            lengths = [len(one.token_ids) for group in answers for one in group]
            steps.append(Step(generated - began, learned - generated, synced - learned, lengths))
    engine.close()
    return steps


def beside(case: Case, num_steps: int, threads: int) -> dict[str, Any]:
    """Medians of steps in which one process generates while this one learns; the first is a warm-up."""
    ids = _prompt_ids(case, num_steps + 1)
    ours, theirs = torch.multiprocessing.get_context("spawn").Pipe()
    torch.multiprocessing.spawn(_generate, args=(theirs, case, threads), nprocs=1, join=False, daemon=True)
    torch.set_num_threads(threads)
    learner = _Learner()
    ours.send(ids[0])
    answers, _ = ours.recv()
    steps: list[dict[str, float]] = []
    for number in range(num_steps):
        began = time.perf_counter()
        ours.send(ids[number + 1])
        learner.step(ids[number], answers)
        learn = time.perf_counter() - began
        answers, generate = ours.recv()
        steps.append({"seconds": time.perf_counter() - began, "generate": generate, "learn": learn})
    return {name: round(statistics.median(step[name] for step in steps[1:]), 3) for name in steps[0]}


def _generate(_: int, pipe: Any, case: Case, threads: int) -> None:
    engine, sampling = _engine(case, threads)
    while True:
        asked = pipe.recv()
        began = time.perf_counter()
        answers = engine.generate(asked, sampling)
        pipe.send((answers, time.perf_counter() - began))


def _prompt_ids(case: Case, num_steps: int) -> list[list[list[int]]]:
    """Of each step's prompts."""
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    found = [tokenizer(text)["input_ids"] for text in rendered_prompts(case.num_prompts * num_steps)]
    return [found[number * case.num_prompts :][: case.num_prompts] for number in range(num_steps)]


def _engine(case: Case, threads: int) -> tuple[Any, Sampling]:
    options = EngineOptions("float32", MAX_MODEL_LEN, min(256, case.answers), threads=threads, takes_weights="file")
    engine = start_engine(MODEL, options)  # sets torch's threads too
    stops = tuple(stop_ids(case))
    return engine, Sampling(case.max_new_tokens, temperature=1.0, num_samples=case.num_samples, stop_token_ids=stops)


class _Learner:
    """The policy and its optimizer, in float32."""

    def __init__(self) -> None:
        self._model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).train()
        self._optimizer = torch.optim.AdamW(self._model.parameters(), lr=LR, weight_decay=0.0, fused=True)
        self._pad_id = AutoTokenizer.from_pretrained(MODEL).pad_token_id

    def step(self, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[Completion]]) -> None:
        """One optimizer step over all answers."""
        flat = [one for group in answers for one in group]
        groups = np.repeat(np.arange(len(answers)), [len(group) for group in answers])
        advantages = group_normalised(np.array([reward(one.text) for one in flat]), groups)
        sequences = []
        for group, one in zip(groups, flat, strict=True):
            ids = np.array([*prompts[group], *one.token_ids])
            sequences.append(whole(ids, np.arange(len(ids)) >= len(prompts[group])))
        total = sum(len(one.token_ids) for one in flat)
        lengths = [len(one.input_ids) for one in sequences]
        for at in share_out(lengths, -(-sum(lengths) // _MICRO_TOKENS)):
            self._backward([sequences[one] for one in at], [flat[one] for one in at], advantages[at], total)
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad()

    def _backward(
        self, sequences: Sequence[TokenExample], answers: Sequence[Completion], advantages: np.ndarray, total: int
    ) -> None:
        """Adds the gradient of a micro-batch's share of the mean over the step's `total` tokens. The head sees only
        the positions that predict a token of an answer."""
        batch = collate_parts(sequences, max_length=MAX_MODEL_LEN, packing=True, pad_id=self._pad_id)
        labels = batch["token_labels"][:, 1:]
        wanted = labels != IGNORE
        part_of = batch["part_of"][:, 1:][wanted]
        order = torch.unique_consecutive(part_of)  # of the answers in the packed rows
        old = torch.tensor([logprob for place in order for logprob in answers[place].logprobs])
        read = {key: batch[key] for key in ("input_ids", "position_ids")}
        hidden = self._model.model(**read, use_cache=False).last_hidden_state[:, :-1]
        logits = self._model.lm_head(hidden[wanted])
        logprobs = -torch.nn.functional.cross_entropy(logits, labels[wanted], reduction="none")
        each = torch.from_numpy(advantages).float()[part_of]
        (clipped(logprobs - old, each, low=CLIP, high=CLIP).loss.sum() / total).backward()

    def save(self, file: Path) -> None:
        """Writes the weights as an engine takes them: a tied head under its own name too."""
        save_file({name: weight.clone() for name, weight in self._model.state_dict().items()}, file)


def trl_steps(case: Case, num_steps: int, threads: int, *, has_vllm: bool = False) -> list[Step]:
    """Steps of GRPOTrainer."""
    if has_vllm:
        prepare_process(EngineOptions("float32", MAX_MODEL_LEN, min(256, case.answers), threads=threads))
        os.environ["VLLM_CPU_KVCACHE_SPACE"] = "1"  # GiB; its default is a share of the machine
    # Importing it imports vLLM, for which the other side has to prepare the process first.
    from trl import GRPOConfig, GRPOTrainer

    torch.set_num_threads(threads)
    steps: list[Step] = []

    class Timed(GRPOTrainer):
        """Tells how long the rollouts took and how long they are."""

        def _generate(self, prompts: list[Any]) -> Any:
            began = Clock.now()
            found = super()._generate(prompts)
            self.generated, self.lengths = Clock.now() - began, [len(ids) for ids in found[1]]
            return found

    class Clocks(TrainerCallback):
        """Keeps the time of each step, from the end of the one before."""

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.began = Clock.now()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            now = Clock.now()
            steps.append(Step(trainer.generated, now - self.began - trainer.generated, None, trainer.lengths))
            self.began = now

    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    # `generation_kwargs` would end answers too, but TRL cuts them only at these, and would learn the padding.
    model.generation_config.eos_token_id = [*model.generation_config.eos_token_id, *stop_ids(case)]
    micro_batch = min(_TRL_MICRO_BATCH, case.answers)
    with tempfile.TemporaryDirectory() as folder:
        base, more = str(MODEL), dict[str, Any]()
        if has_vllm:  # it takes the type and the end tokens from the folder
            model.save_pretrained(base := f"{folder}/base")
            AutoTokenizer.from_pretrained(MODEL).save_pretrained(base)
            model.name_or_path = model.config._name_or_path = base
            more = {"use_vllm": True, "vllm_mode": "colocate", "vllm_max_model_length": MAX_MODEL_LEN}
        config = GRPOConfig(
            output_dir=folder,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            per_device_train_batch_size=micro_batch,
            gradient_accumulation_steps=case.answers // micro_batch,
            num_generations=case.num_samples,
            max_completion_length=case.max_new_tokens,
            max_steps=num_steps,
            temperature=1.0,
            beta=0.0,
            epsilon=CLIP,
            loss_type="dapo",  # the mean over the tokens of the step
            learning_rate=LR,
            lr_scheduler_type="constant",
            weight_decay=0.0,
            shuffle_dataset=False,
            report_to=[],
            logging_strategy="no",
            save_strategy="no",
            disable_tqdm=True,
            **more,
        )
        trainer = Timed(
            model,
            reward_funcs=_rewards,
            args=config,
            train_dataset=Dataset.from_dict({"prompt": rendered_prompts(case.num_prompts * num_steps)}),
            processing_class=AutoTokenizer.from_pretrained(base, padding_side="left"),
            callbacks=[Clocks()],
        )
        trainer.train()
    assert torch.get_num_threads() == threads
    return steps


def _rewards(completions: list[str], **_: Any) -> list[float | None]:
    return [reward(text) for text in completions]


if __name__ == "__main__":
    main()
