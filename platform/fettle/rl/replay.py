"""One stored iteration through the learner once more: the same rollouts, the same weights, the same figures, or not."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from fettle.artifact import replace_text
from fettle.errors import UserError
from fettle.models import adapters
from fettle.models.base import load_tokenizer
from fettle.models.stored import Quantised
from fettle.recipe.adapter import AdapterSpec
from fettle.recipe.rl import RlStage
from fettle.rl.algorithms import algorithm_of
from fettle.rl.collect import rollouts_file
from fettle.rl.job import RlJob
from fettle.rl.kl import FixedKl
from fettle.rl.learner import RlTask
from fettle.rl.loop import steps_of
from fettle.rl.rollout import Judged
from fettle.rl.stored import read_rollouts
from fettle.rl.sync import version_path
from fettle.rl.tally import Figures

_JOB = "rl_job.json"
_PATHS = ("base", "from_adapter", "folder", "artifact", "recipe_folder")
_PLAIN = ("name", "fingerprint", "seed", "max_length", "precision", "pad_id", "chat_template")


@dataclass(frozen=True)
class Apart:
    """A token on which sampler and learner differ. logprobs: of the sampler, of the learner."""

    prompt: int
    sample: int
    place: int
    token: str
    logprobs: tuple[float, float]


@dataclass(frozen=True)
class Replayed:
    """The figures of the iteration's first optimizer step, the norm of its gradient before any clipping (of the policy
    alone), and the tokens on which sampler and learner differ most."""

    figures: Figures
    grad_norm: float
    apart: list[Apart]


def write_job(job: RlJob) -> None:
    """Writes down beside the rollouts what a replay has to know of the stage."""
    told = {name: getattr(job, name) for name in _PLAIN}
    told |= {name: str(path) if (path := getattr(job, name)) is not None else None for name in _PATHS}
    for name, part in (("spec", job.spec), ("adapter", job.adapter)):
        told[name] = part.model_dump(mode="json", by_alias=True, exclude_unset=True)
    job.folder.mkdir(parents=True, exist_ok=True)
    replace_text(job.folder / _JOB, json.dumps(told, indent=2))


def read_job(folder: Path) -> RlJob:
    """The job of the stage in a folder. Raises UserError where it is none of reinforcement learning."""
    try:
        told = json.loads((folder / _JOB).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"no stage of reinforcement learning has run in {folder}", file=folder) from None
    plain: dict[str, Any] = {name: told[name] for name in _PLAIN}
    paths: dict[str, Any] = {name: Path(told[name]) if told[name] else None for name in _PATHS}
    nothing: dict[str, Any] = {"recipe": "", "end_ids": (), "data": (), "prompts": (), "heldout_prompts": None}
    spec = RlStage.model_validate(_with_tuples(told["spec"]))
    adapter = AdapterSpec.model_validate(_with_tuples(told["adapter"]))
    return RlJob(spec=spec, adapter=adapter, models=(), critic=None, **plain, **paths, **nothing)


def replay(folder: Path, iteration: int, most: int = 5) -> Replayed:
    """The stored iteration of the stage in a folder through its learner, on the CPU, without an optimizer step.

    Raises UserError where its rollouts, or the weights that learned from them, are no longer kept.
    """
    job = read_job(folder)
    batch, told = read_rollouts(_kept(rollouts_file(job, iteration), job, iteration))
    algorithm = algorithm_of(job.spec)
    task = RlTask(job, algorithm, FixedKl(told["kl_coef"]), with_critic=False)
    model = _policy(job, task, iteration)
    task.trainer = SimpleNamespace(
        args=SimpleNamespace(device=torch.device("cpu")),
        task=task,
        batches=SimpleNamespace(rank=0, world=1),
        model=model,
        model_wrapped=model,
    )
    judged = algorithm.judge(batch, told["kl_coef"])
    step = next(steps_of(job, algorithm, judged, iteration))
    num_tokens = sum(one.rollout.num_loss_tokens for one in step)
    for part in _micro_batches(step):
        (task.loss_sum(model, task.collate(part)) / num_tokens).backward()
    norms = [weight.grad.norm() for weight in model.parameters() if weight.grad is not None]
    return Replayed(
        task.tally.take(torch.device("cpu"), 1), float(torch.stack(norms).norm()), _farthest(job, task, batch, most)
    )


def _with_tuples(value: Any) -> Any:
    """The same with tuples, which specs have, for the lists of JSON."""
    if isinstance(value, dict):
        return {key: _with_tuples(one) for key, one in value.items()}
    return tuple(_with_tuples(one) for one in value) if isinstance(value, list) else value


def _policy(job: RlJob, task: RlTask, iteration: int) -> Any:
    frozen = torch.float32
    model: Any = task.load(job.base, frozen if job.adapter.bits is None else Quantised(job.adapter.bits, frozen))
    path = _kept(version_path(job, iteration), job, iteration)
    if job.adapter.is_beside:
        return adapters.resume(model, path)
    model.load_state_dict(load_file(path), strict=False)
    model.tie_weights()
    return model


def _kept(path: Path, job: RlJob, iteration: int) -> Path:
    if not path.exists():
        there = sorted(int(one.stem) for one in path.parent.glob("[0-9]*"))
        there = there or sorted(int(one.name) for one in path.parent.parent.glob("[0-9]*"))
        raise UserError(
            f"iteration {iteration} of {job.name} cannot be replayed: {path} is not kept",
            expected=f"one of {there[0]} to {there[-1]}" if there else None,
            fix="keep more of them with recorder: {batches: N}; full weights are kept for the newest iterations alone,"
            " and no weights once the stage is done",
        )
    return path


def _micro_batches(step: Sequence[Judged], most_tokens: int = 4096) -> Iterator[list[Judged]]:
    found: list[Judged] = []
    tokens = 0
    for one in step:
        if found and tokens + len(one.input_ids) > most_tokens:
            yield found
            found, tokens = [], 0
        found.append(one)
        tokens += len(one.input_ids)
    yield found


def _farthest(job: RlJob, task: RlTask, batch: Sequence[Judged], most: int) -> list[Apart]:
    tokenizer = load_tokenizer(job.base, job.chat_template)
    learner = task.policy_logprobs(batch)
    found = []
    for one, logprobs in zip(batch, learner, strict=True):
        of = one.rollout
        mine = logprobs[len(of.prompt_ids) :]
        differences = np.where(of.mask, np.abs(mine - of.logprobs), 0)
        for place in np.argsort(-differences)[:most].tolist():
            token = str(tokenizer.convert_ids_to_tokens(int(of.output_ids[place])))
            pair = float(of.logprobs[place]), float(mine[place])
            found.append(Apart(of.prompt, of.sample, place, token, pair))
    return sorted(found, key=lambda one: -abs(one.logprobs[0] - one.logprobs[1]))[:most]
