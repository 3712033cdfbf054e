"""The parts of an rl stage on one worker, made and joined: policy, critic, engines, rewards, prompts, reports."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback
from trl.trainer.utils import disable_dropout_in_model

from fettle.engine.sampling import Sampling
from fettle.models.base import load_tokenizer
from fettle.models.precision import frozen_dtype
from fettle.models.stored import Quantised
from fettle.models.unrounded import unrounded
from fettle.rl.algorithms import algorithm_of
from fettle.rl.collect import Collector, Play
from fettle.rl.critic import PART, is_of_critic, load_critic
from fettle.rl.environment import check_environment, play
from fettle.rl.job import RlJob
from fettle.rl.kl import kl_weight
from fettle.rl.learner import RlTask
from fettle.rl.loop import Iterations, read_state
from fettle.rl.placement import places_of_workers, resources_apart, resources_shared
from fettle.rl.prompts import Prompts, draw_seed, prompts_in, split_prompts
from fettle.rl.replay import write_job
from fettle.rl.rewards.actor import ActorScorer
from fettle.rl.rewards.rewards import Rewards, make_scorer
from fettle.rl.rollout import Rollout
from fettle.rl.rollouts import RolloutPool
from fettle.rl.sampler import engine_options, most_apart
from fettle.rl.sync import Sync
from fettle.rl.told import RlReport
from fettle.train.checkpoint import wait_for
from fettle.train.job import GroupMember

_CRITIC_TIMES_LR = 10.0


class RlLoop:
    """What `train_stage` is handed: see its `Loop`."""

    def __init__(self, job: RlJob, member: GroupMember) -> None:
        self.job, self.member = job, member
        self.algorithm, self.kl = algorithm_of(job.spec), kl_weight(job.spec.kl)
        self.task = RlTask(job, self.algorithm, self.kl)
        self._iterations: Iterations
        self._report: RlReport
        self._scorers: list[ActorScorer] = []
        self._collector: Collector | None = None
        self._starting: Future[RolloutPool]
        self._pool: RolloutPool | None = None
        self._resources: list[dict[str, Any]] = []
        self._gpu = 0

    def underway(self, latest: tuple[int, Path] | None) -> Iterations:
        """The steps from the checkpoint on. On rank 0 the engines begin to start."""
        first = read_state(latest[1], self.kl) if latest is not None else 0
        self._gpu = torch.cuda.current_device() if torch.cuda.is_available() else 0
        if self._shares_gpus:
            self._resources = resources_shared(self.job, places_of_workers())
        else:
            self._resources = resources_apart(self.job, self.member.cluster)
        if self.member.rank == 0:
            write_job(self.job)
            self._collector = self._collects()
        self._iterations = Iterations(
            self.job, self.member.fence, self.task, self.algorithm, self.kl, self._collector, first
        )
        return self._iterations

    def complete(self, model: Any) -> None:
        """No dropout in an adapter either; a critic, where the algorithm wants one, becomes a part of the model."""
        disable_dropout_in_model(model)
        if not self.algorithm.wants_critic:
            return
        job = self.job
        low = frozen_dtype(job.precision, self.member.cluster.zero)
        stored = low if job.adapter.bits is None else Quantised(job.adapter.bits, low)
        model.add_module(PART, load_critic(job.critic or job.base, job.adapter, stored, job.seed))

    def rate_of(self, name: str) -> float | None:
        """The critic's parameters learn at a rate of their own."""
        if not is_of_critic(name):
            return None
        return self.job.spec.algorithm.critic_lr or _CRITIC_TIMES_LR * self.job.spec.lr

    def callbacks(self) -> list[TrainerCallback]:
        """What joins the loop to the trainer, and the report."""
        self._report = RlReport(self._iterations, write=self.member.rank == 0)
        return [_Joined(self), self._report, _Apart(self)]

    def metrics(self) -> dict[str, Any]:
        """What the report says beside the losses."""
        return self._report.metrics()

    def begin(self, trainer: Any) -> None:
        """With the trainer in its place: what the policy is published by."""
        job = self.job
        self._iterations.begin(Sync(trainer, self.task, job, self.member.fence))
        if self.member.rank == 0 and self._starts_last:
            self._start()
            if self._shares_gpus:
                self._starting.result()  # it counts the GPU's free memory, which has to stay as it is meanwhile

    def end(self, model: Any) -> None:
        """What is left of the model is the policy, as it is published; full weights on the way to it go."""
        if self.algorithm.wants_critic:
            delattr(model, PART)
        if self.member.rank == 0 and not self.job.adapter.is_beside:
            self._iterations.sync.clear()  # an adapter's are small, and stay for replays

    def close(self) -> None:
        """Ends what was started."""
        if self._collector is not None:
            self._collector.close()
        for scorer in self._scorers:
            scorer.close()
        if self._pool is not None:
            self._pool.close()

    @property
    def _shares_gpus(self) -> bool:
        return bool(self.job.spec.rollout.placement == "shared" and self.member.cluster.gpus_per_worker)

    @property
    def _starts_last(self) -> bool:
        """Whether engines start only when the learner is in its place: transformers does not load two models at a time,
        and on a shared GPU an engine takes what the learner leaves."""
        return self.job.adapter.bits is not None or self._shares_gpus

    def _collects(self) -> Collector:
        job, cluster = self.job, self.member.cluster
        tokenizer = load_tokenizer(job.base, job.chat_template)
        if not self._starts_last:
            self._start()

        def scorer_of(name: str) -> ActorScorer:
            folder = dict(job.models)[name]
            scorer = ActorScorer(
                folder, name, logs=job.folder / "logs", threads=cluster.cpus_per_worker, gpus=cluster.gpus_per_worker
            )
            self._scorers.append(scorer)
            return scorer

        def rewards(specs: Any) -> Rewards:
            return Rewards(specs, [make_scorer(one, job.resolve, scorer_of) for one in specs])

        return Collector(
            job,
            self.member.fence,
            lambda: self._starting.result(),
            _prompts(job, tokenizer),
            rewards(job.spec.rewards),
            rewards(job.spec.judges) if job.spec.judges else None,
            self._plays(tokenizer),
        )

    def _plays(self, tokenizer: Any) -> Play | None:
        """How episodes of the stage's environment are played, where it has one."""
        job = self.job
        if job.spec.environment is None:
            return None
        environment = check_environment(job.spec.environment, job.resolve)

        def episodes(asked: Any, answer: Any, sampling: Sampling, what: str) -> list[tuple[Rollout, float]]:
            return play(
                environment,
                [one.record for one in asked],
                answer,
                sampling,
                tokenizer,
                num_samples=sampling.num_samples,
                max_turns=job.spec.turns,
                max_new_tokens=sampling.max_new_tokens,
                max_length=job.max_length,
                seed=lambda *place: draw_seed(job.seed, what, *place),
            )

        return episodes

    def _start(self) -> None:
        """Has the engines started, in a thread beside what else is to be loaded."""
        self._starting = ThreadPoolExecutor(1, "start-engines").submit(self._started)

    def _started(self) -> RolloutPool:
        """The engines, over the weights under the adapter, or over those that full weights begin as."""
        job, cluster = self.job, self.member.cluster
        base = job.base
        if job.merged_first:
            base = job.folder / "merged"
            wait_for(base, self.member.fence)
        if job.adapter.bits is not None:
            base = unrounded(base, job.adapter.bits, job.folder / "unrounded")
        self._pool = RolloutPool(
            base,
            engine_options(job, cluster),
            resources=self._resources,
            logs=job.folder / "logs",
            sync_timeout_s=job.spec.rollout.sync_timeout_s,
            answer_timeout_s=job.spec.rollout.answer_timeout_s,
            most_apart=most_apart(job, cluster),
            gpu=self._gpu,
        )
        return self._pool


class _Joined(TrainerCallback):
    def __init__(self, loop: RlLoop) -> None:
        self._loop = loop

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._loop.begin(self._loop.task.trainer)


class _Apart(TrainerCallback):
    def __init__(self, loop: RlLoop) -> None:
        self._loop = loop

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._loop.end(self._loop.task.trainer.model)


def _prompts(job: RlJob, tokenizer: Any) -> Prompts:
    """The prompts that leave room for an answer."""
    room = job.max_length - job.spec.rollout.max_new_tokens
    found = [one for source in job.prompts for one in prompts_in(source, tokenizer) if len(one.ids) <= room]
    own = None
    if job.heldout_prompts is not None:
        own = [one for one in prompts_in(job.heldout_prompts, tokenizer) if len(one.ids) <= room]
    return split_prompts(found, own, job.spec.heldout, job.seed)
