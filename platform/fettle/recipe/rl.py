"""`kind: rl`: a language model learns from rewards for its own answers."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from fettle.recipe.algorithm import LEAST_SAMPLES, AlgorithmSpec, KlSpec, kl_defaults
from fettle.recipe.cluster import ClusterSpec
from fettle.recipe.data import HeldoutSpec, Source
from fettle.recipe.rewards import RewardSpec, check_parts
from fettle.recipe.spec import Spec, as_kind
from fettle.recipe.stages import BatchSpec, CheckpointSpec, LearningStage


class RolloutSpec(Spec):
    """How answers are sampled: so many prompts, and samples of each, in every iteration."""

    engines: int = Field(1, ge=1)
    """vLLM engines that generate side by side."""
    prompts: int = Field(16, ge=1)
    """Prompts of an iteration."""
    samples_per_prompt: int = Field(8, ge=1, le=64)
    """Answers to each of them."""
    max_new_tokens: int = Field(64, ge=1)
    """Where an answer is broken off."""
    temperature: float = Field(1.0, gt=0)
    """What the logits are divided by, in sampling and in learning."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Each token is drawn from the likeliest ones that together have this probability. Below 1 the sampler is no longer
    the policy that learns, which importance weights only partly put right."""
    tensor_parallel: int = Field(1, ge=1)
    """GPUs of each engine, over which it shares out the model."""
    placement: Literal["apart", "shared"] = "apart"
    """Engines on GPUs of their own, or on the workers' (`engines` x `tensor_parallel` of them), which they give back
    while the policy learns (vLLM's sleep mode). On CPUs they share the cores either way."""
    gpu_memory: float | None = Field(None, gt=0, lt=1)
    """Share of a GPU's memory that an engine takes while it generates; by default vLLM's, 0.4 where placement is
    shared."""
    transfer: Literal["file", "broadcast"] = "file"
    """How full weights reach the engines: as a file in the run's folder, or from the memory of the first worker, over
    nccl on GPUs and gloo on CPUs, which spares a shared disk. An adapter's are small, and always a file."""
    sync_timeout_s: float = Field(300.0, gt=0)
    """Seconds in which all engines must have taken new weights."""
    answer_timeout_s: float = Field(3600.0, gt=0)
    """Seconds in which the next of an iteration's batches must have been answered."""

    @property
    def num_gpus(self) -> int:
        """GPUs of all engines, where there are any."""
        return self.engines * self.tensor_parallel

    @model_validator(mode="before")
    @classmethod
    def _defaults_that_depend(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("placement") == "shared" and value.get("gpu_memory") is None:
            return value | {"gpu_memory": 0.4}
        return value


class GapSpec(Spec):
    """How far sampler and learner may be apart: the mean over an iteration of |Δ log-probability|, in nats a token."""

    warn: float = Field(0.02, gt=0)
    """From here on it is told."""
    stop: float = Field(0.2, gt=0)
    """From here on the run stops, with the reason."""

    @model_validator(mode="after")
    def _in_order(self) -> "GapSpec":
        if self.stop < self.warn:
            raise ValueError(f"stop {self.stop:g} is below warn {self.warn:g}")
        return self


class RecorderSpec(Spec):
    """What is kept of each iteration, beside its row of figures."""

    samples: int = Field(2, ge=0)
    """Answers that are kept word for word in the row."""
    batches: int = Field(20, ge=1)
    """The newest so many iterations can be replayed: their rollouts stay on the disk, and of an adapter its weights."""


def _as_sources(value: object) -> object:
    """`prompts: FILE` and `prompts: [FILE, {path, limit}]` are both lists of sources."""
    return tuple(value) if isinstance(value, (list, tuple)) else (value,)


def _filled(value: Any) -> Any:
    """A stage's keys, with those whose defaults depend on other keys: `kl.in` on the algorithm, `batch.sequences` on
    how many rollouts an iteration learns from."""
    if not isinstance(value, dict):
        return value
    algorithm, rollout = as_kind(value.get("algorithm")), value.get("rollout", {})
    kind = algorithm.get("kind") if isinstance(algorithm, dict) else getattr(algorithm, "kind", None)
    kl, batch = value.get("kl", {}), value.get("batch", {})
    filled = dict(value)
    if isinstance(kl, dict):
        filled["kl"] = kl_defaults(kl, str(kind))
    if (
        isinstance(rollout, (dict, RolloutSpec))
        and isinstance(batch, dict)
        and not {"tokens", "sequences"} & set(batch)
    ):
        spec = rollout if isinstance(rollout, RolloutSpec) else RolloutSpec.model_construct(**rollout)
        if isinstance(spec.prompts, int) and isinstance(spec.samples_per_prompt, int):
            filled["batch"] = {**batch, "sequences": max(1, _num_learned(str(kind), spec))}
    return filled


def _num_learned(kind: str, rollout: RolloutSpec) -> int:
    return rollout.prompts * {"raft": 1, "online_dpo": 2}.get(kind, rollout.samples_per_prompt)


class RlStage(LearningStage):
    """Reinforcement learning: answers are sampled from the policy, scored by rewards, and made more or less likely."""

    kind: Literal["rl"]
    """Prompts."""
    base: str | None = None
    """Begin from this model instead of an earlier stage's."""
    algorithm: Annotated[AlgorithmSpec, BeforeValidator(as_kind)]
    """What is learned from rewards; `algorithm: grpo` is enough to name the kind."""
    prompts: Annotated[tuple[Source, ...], BeforeValidator(_as_sources)] = Field(min_length=1)
    """A file, or a list of files, of records with a prompt; their other columns go to the reward functions."""
    rewards: tuple[RewardSpec, ...] = Field(min_length=1)
    """What answers are rewarded for; the reward is the weighted sum."""
    judges: tuple[RewardSpec, ...] = ()
    """Rewards that are watched and never learned from; a reward that rises while a judge falls is told."""
    rollout: RolloutSpec = RolloutSpec()
    """How answers are sampled."""
    iterations: int = Field(ge=1)
    """How often answers are sampled and learned from."""
    max_staleness: int = Field(0, ge=0)
    """By how many iterations the weights an answer was sampled with may lag behind: 0 generates and learns in turns, 1
    generates the next answers while it learns from these."""
    kl: KlSpec = KlSpec()
    """What holds the policy to what it was at the beginning of the stage."""
    environment: str | None = Field(None, pattern=r"^.+\.py:[A-Za-z_][A-Za-z0-9_]*$")
    """`file.py:Class`, whose messages answer the policy's, turn after turn."""
    max_turns: int | None = Field(None, ge=2)
    """With an environment: answers of the policy in one rollout, at most; 8 by default."""
    heldout: HeldoutSpec | None = None
    """Prompts on which the reward is measured before and after; by default 2 % of them, at most 200."""
    lr: float = Field(1e-6, gt=0)
    """Peak learning rate."""
    batch: BatchSpec = BatchSpec(sequences=128)
    """What one optimizer step learns from, in `sequences`: an iteration's rollouts, or a part of them; by default
    all."""
    max_length: int | None = Field(None, ge=8)
    """Tokens of the longest prompt with its answer; by default the model's positions, at most 2048."""
    packing: bool | None = None
    """Several rollouts in one row, none seeing another; false pads instead. By default true where the model can."""
    checkpoint: CheckpointSpec = CheckpointSpec(every=10)
    """How often to save, at ends of iterations, and how much to keep."""
    gap: GapSpec = GapSpec()
    """What is done where sampler and learner do not agree."""
    recorder: RecorderSpec = RecorderSpec()
    """What is kept of each iteration."""

    @property
    def num_learned(self) -> int:
        """Rollouts that each iteration learns from: all, of raft the best answer to each prompt, of online_dpo the best
        and the worst."""
        return _num_learned(self.algorithm.kind, self.rollout)

    @property
    def steps_per_iteration(self) -> int:
        """Optimizer steps after each generation."""
        assert self.batch.sequences is not None
        return self.num_learned // self.batch.sequences * self.algorithm.epochs

    @property
    def steps_between_checkpoints(self) -> int:
        """`checkpoint.every`, rounded up to whole iterations."""
        return -(-self.checkpoint.every // self.steps_per_iteration) * self.steps_per_iteration

    def learns_policy(self, iteration: int) -> bool:
        """Whether the policy learns in an iteration; in the first ones the critic may learn alone."""
        return iteration >= (self.algorithm.critic_warmup or 0)

    def cpus_beside(self, cluster: ClusterSpec) -> int:
        """CPUs that engines take beside the workers': none where they take turns."""
        return self.rollout.engines * cluster.cpus_per_worker if self.max_staleness else 0

    def gpus_beside(self, cluster: ClusterSpec) -> int:
        """GPUs that engines and reward models take beside the workers'."""
        if not cluster.gpus_per_worker:
            return 0
        models = {one.stage for one in (*self.rewards, *self.judges) if one.stage is not None}
        return (0 if self.rollout.placement == "shared" else self.rollout.num_gpus) + len(models)

    @property
    def turns(self) -> int:
        """Answers of the policy in one rollout, at most."""
        return 1 if self.environment is None else self.max_turns or 8

    @property
    def max_steps(self) -> int:
        """Optimizer steps of the whole stage."""
        return self.iterations * self.steps_per_iteration

    @model_validator(mode="before")
    @classmethod
    def _defaults_that_depend(cls, value: Any) -> Any:
        return _filled(value)

    @model_validator(mode="after")
    def _keys_that_go_together(self) -> "RlStage":
        kind = self.algorithm.kind
        if self.rollout.samples_per_prompt < LEAST_SAMPLES[kind]:
            raise ValueError(
                f"{kind} compares the answers to a prompt, and rollout.samples_per_prompt is"
                f" {self.rollout.samples_per_prompt}; give at least {LEAST_SAMPLES[kind]}"
            )
        if kind == "online_dpo" and (not self.kl.coef or self.kl.in_ is not None or self.kl.estimator is not None):
            raise ValueError(
                "online_dpo holds the divergence in its preferences: give kl: {coef: β} above 0, and neither in nor"
                " estimator"
            )
        if self.batch.sequences is None:
            raise ValueError("batch.tokens does not tell how many steps there will be; give batch: {sequences: N}")
        if self.num_learned % self.batch.sequences:
            raise ValueError(
                f"batch.sequences {self.batch.sequences} does not divide the {self.num_learned} rollouts that an"
                " iteration learns from"
            )
        if self.max_length is not None and self.max_length <= self.rollout.max_new_tokens:
            raise ValueError(
                f"max_length {self.max_length} leaves no room for a prompt before {self.rollout.max_new_tokens} new"
                " tokens; give a larger max_length, or a smaller rollout.max_new_tokens"
            )
        if not self.learns_policy(self.iterations - 1):
            raise ValueError(
                f"algorithm.critic_warmup {self.algorithm.critic_warmup} leaves the policy none of the"
                f" {self.iterations} iterations"
            )
        if self.rollout.placement == "shared" and self.max_staleness:
            raise ValueError(
                f"rollout.placement: shared has engines and learner take turns, and max_staleness {self.max_staleness}"
                " has them work at the same time; give max_staleness: 0, or placement: apart"
            )
        if self.max_turns is not None and self.environment is None:
            raise ValueError("max_turns has no effect without an environment")
        check_parts((*self.rewards, *self.judges))
        return self
