"""A recipe's plan before anything runs: of each stage what it holds in memory, what it learns, how long, and at what
price. Only configurations and the beginning of the data are read; no weights, no workers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from fettle.models.base import load_tokenizer, resolve_template
from fettle.models.precision import resolve_precision
from fettle.needs import beside
from fettle.needs.batches import Arithmetic, arithmetic
from fettle.needs.beside import Beside
from fettle.needs.machines import CPU_PRICE, Machines
from fettle.needs.memory import Moment, Setup, moments, optimizer_bytes, peak
from fettle.needs.rates import Estimate, Rate, estimate, generating_flops, training_flops
from fettle.needs.shape import Shape, shape_of, trained_weights
from fettle.needs.trace import Micro, config_of
from fettle.pipeline.amounts import Amount, amount_of
from fettle.pipeline.bases import Base, adapter_for, bases_of
from fettle.pipeline.graph import DEFAULT_LENGTH
from fettle.pipeline.reinforcing import rl_precision
from fettle.recipe import Recipe
from fettle.recipe.adapter import AdapterSpec
from fettle.recipe.cluster import ClusterSpec, Precision
from fettle.recipe.distill import DistillStage
from fettle.recipe.merge import MergeStage
from fettle.recipe.quantize import QuantizeStage
from fettle.recipe.rl import RlStage
from fettle.recipe.stages import LearningStage, StageBase, TrainingStage

_HELDOUT_TOKENS = 4096  # train/trainer.py measures so many at once
_POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len")


Lack = Literal["cpus", "gpus", "memory", "engine", "host", "disk"]
"""What there can be too little of: `memory` of a worker's GPU, `engine` of an engine's."""


@dataclass(frozen=True)
class StagePlan:
    """One stage. moments: what each worker holds, in bytes; beside: processes beside the workers. steps: optimizer
    steps (None where the data does not tell without a tokenizer). estimate: of a step of training. disk: bytes below
    the run's folder at most. cpus_beside: cores of engines that generate meanwhile. lacks: what there is too little of;
    problems: the same in words. base: what it begins from. amount: of its data, where that was looked at."""

    name: str
    kind: str
    base: str
    weights: int
    cluster: ClusterSpec
    adapter: AdapterSpec | None
    precision: Precision
    checkpointing: bool
    moments: tuple[Moment, ...]
    beside: tuple[Beside, ...] = ()
    batch: Arithmetic | None = None
    amount: Amount | None = None
    steps: float | None = None
    estimate: Estimate | None = None
    flops: float = 0.0
    disk: int = 0
    cpus_beside: int = 0
    lacks: frozenset[Lack] = frozenset()
    problems: tuple[str, ...] = ()

    @property
    def peak(self) -> Moment:
        """The moment at which a worker holds the most."""
        return peak(list(self.moments))

    @property
    def seconds(self) -> float | None:
        """Of all its steps."""
        return self.estimate.seconds * self.steps if self.estimate is not None and self.steps is not None else None

    @property
    def num_gpus(self) -> int:
        """Of its workers, and of what is beside them."""
        return self.cluster.workers * self.cluster.gpus_per_worker + sum(one.gpus * one.count for one in self.beside)

    def dollars(self, machines: Machines, price: float | None) -> float | None:
        """At so many dollars an hour of a GPU, or of a core where it has none; by default a guess."""
        if self.seconds is None:
            return None
        if self.num_gpus:
            each = price if price is not None else (machines.gpu.price if machines.gpu is not None else 1.0)
            return self.seconds / 3600 * self.num_gpus * each
        cores = self.cluster.workers * self.cluster.cpus_per_worker
        return self.seconds / 3600 * cores * (price if price is not None else CPU_PRICE)


def plan_recipe(
    recipe: Recipe,
    machines: Machines,
    rates: Sequence[Rate] = (),
    until: str | None = None,
    *,
    only: str | None = None,
    rough: int | None = None,
) -> list[StagePlan]:
    """The stages up to and with `until`, or one alone, without what `fitting.judged` finds. rough: instead a bound of
    the memory, as `memory.Setup` has it, fast: no model is run through, no data looked at, every text is as long as it
    may be. Raises UserError where a base or data is not there."""
    bases, found = bases_of(recipe), list[StagePlan]()
    for stage in recipe.stages:
        if only in (None, stage.name):
            found.append(_planned(recipe, stage, bases, machines, rates, rough))
        if stage.name == until:
            break
    return found


def _planned(
    recipe: Recipe,
    stage: StageBase,
    bases: dict[str, Base],
    machines: Machines,
    rates: Sequence[Rate],
    rough: int | None,
) -> StagePlan:
    base = bases[stage.name]
    shape, cluster = shape_of(base.config), stage.cluster or recipe.cluster
    if isinstance(stage, (MergeStage, QuantizeStage)):
        return StagePlan(
            name=stage.name,
            kind=stage.kind,
            base=base.name,
            weights=shape.weights,
            cluster=cluster,
            adapter=None,
            precision="fp32",
            checkpointing=False,
            moments=tuple(beside.merging(shape)),
            disk=shape.stored * shape.weights,
        )
    assert isinstance(stage, LearningStage)
    adapter = adapter_for(recipe, stage, base)
    length = length_of(stage, base)
    precision = rl_precision(cluster) if isinstance(stage, RlStage) else resolve_precision(cluster)
    told = stage.gradient_checkpointing
    checkpointing = (cluster.gpus_per_worker > 0 and adapter.kind != "prefix") if told is None else told
    amount = _amount(recipe, stage, base, length) if rough is None else None
    batch = arithmetic(stage, cluster, amount, length, packing=stage.packing is not False)
    logits = _holds_logits(batch, shape, cluster)
    micro = Micro(batch.rows, batch.row_tokens, precision, checkpointing, logits, stage.attention)
    heldout = _heldout(stage, batch, micro, amount)
    setup = Setup(adapter, cluster, precision, micro, heldout, stage.optimizer, stage.batch.accumulate, rough=rough)
    found = moments(shape, setup)
    others: list[Beside] = []
    if isinstance(stage, RlStage):
        found, others = _of_rl(recipe, stage, bases, shape, setup, found, length)
    elif isinstance(stage, DistillStage) and stage.loss != "answers":
        teacher = bases[stage.teacher].config if stage.teacher in bases else None
        found = beside.second_model(found, "teacher", shape_of(teacher) if teacher else shape, setup)
    elif getattr(stage, "kl_to_base", None) is not None:
        found = beside.second_model(found, "the base", shape, setup)
    flops = flops_of_step(stage, shape, adapter, batch, cluster, checkpointing)
    kind: Any = "rl" if isinstance(stage, RlStage) else "train"
    return StagePlan(
        name=stage.name,
        kind=stage.kind,
        base=base.name,
        weights=shape.weights,
        cluster=cluster,
        adapter=adapter,
        precision=precision,
        checkpointing=checkpointing,
        moments=tuple(found),
        beside=tuple(others),
        batch=batch,
        amount=amount,
        steps=batch.steps,
        estimate=estimate(flops, kind, cluster, precision, machines.gpu, rates),
        flops=flops,
        disk=_disk(stage, shape, setup),
        cpus_beside=stage.cpus_beside(cluster) if isinstance(stage, RlStage) else 0,
    )


def length_of(stage: LearningStage, base: Base) -> int:
    """Tokens of the longest record, as `graph.plan_stages` has it."""
    told = config_of(base.config)
    positions = next((int(n) for key in _POSITIONS if isinstance(n := getattr(told, key, None), int)), DEFAULT_LENGTH)
    return stage.max_length or min(positions, DEFAULT_LENGTH)


def _amount(recipe: Recipe, stage: LearningStage, base: Base, length: int) -> Amount | None:
    """Of the stage's data; None where there is no tokenizer to count it with."""
    if base.folder is None or not any((base.folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        return None
    if isinstance(stage, RlStage):
        return None
    assert isinstance(stage, TrainingStage)
    template = recipe.chat_template
    if template is not None:
        template = resolve_template(template, recipe.file.parent, **recipe.where("chat_template"))
    tokenizer = load_tokenizer(base.folder, template)
    return amount_of(recipe, f"stages.{stage.name}.data", stage.data, tokenizer, length)


def _holds_logits(batch: Arithmetic, shape: Shape, cluster: ClusterSpec) -> bool:
    """As train/logprobs.py: on a CPU, while they are few."""
    return cluster.gpus_per_worker == 0 and batch.rows * batch.row_tokens * shape.vocabulary <= 2**28


def _heldout(stage: LearningStage, batch: Arithmetic, micro: Micro, amount: Amount | None) -> Micro | None:
    """The held-out records that are measured at once."""
    spec = stage.heldout
    most = spec.max if spec is not None and spec.max is not None else 200
    share = spec.fraction if spec is not None and spec.fraction is not None else 0.02
    mean = amount.mean if amount is not None else batch.row_tokens
    number = min(most, share * amount.examples) if amount is not None else most
    tokens = min(_HELDOUT_TOKENS, max(1.0, number * mean / batch.workers))
    width = min(batch.row_tokens, max(8, int(tokens)))
    return replace(micro, rows=max(1, round(tokens / width)), tokens=width, checkpointing=False)


def flops_of_step(
    stage: LearningStage,
    shape: Shape,
    adapter: AdapterSpec,
    batch: Arithmetic,
    cluster: ClusterSpec,
    checkpointing: bool,
) -> float:
    """Operations of a worker's step, generating and what references and rewards take among them."""
    tokens = batch.tokens / batch.workers
    if not isinstance(stage, RlStage):
        more = 1.0 if isinstance(stage, DistillStage) or getattr(stage, "kl_to_base", None) is not None else 0.0
        return training_flops(shape, adapter, tokens, batch.length, checkpointing=checkpointing, passes=more)
    critic = 2.0 if stage.algorithm.kind == "ppo" else 1.0
    passes = 1.0 + (stage.kl.coef > 0) + len({one.stage for one in stage.rewards if one.stage is not None})
    learned = critic * training_flops(shape, adapter, tokens, batch.length, checkpointing=checkpointing, passes=passes)
    drawn = stage.rollout.prompts * stage.rollout.samples_per_prompt * stage.rollout.max_new_tokens * stage.turns
    engines = stage.rollout.engines if stage.max_staleness or cluster.gpus_per_worker else cluster.workers
    return learned + generating_flops(shape, drawn / stage.steps_per_iteration) / max(1, engines)


def _of_rl(
    recipe: Recipe,
    stage: RlStage,
    bases: dict[str, Base],
    shape: Shape,
    setup: Setup,
    found: list[Moment],
    length: int,
) -> tuple[list[Moment], list[Beside]]:
    """(what the learner's workers hold, what is beside them)."""
    if stage.algorithm.kind == "ppo":
        found = beside.with_critic(found, moments(shape, replace(setup, micro=replace(setup.micro, logits=False))))
    if stage.kl.coef > 0:
        found = beside.with_reference(found, shape, setup, goes_on=bases[stage.name].adapter is not None)
    found = [*found, beside.sync_moment(found, shape, setup)]
    spec = stage.rollout
    on_gpu = setup.on_gpu
    sequences = min(256, -(-spec.prompts * spec.samples_per_prompt // spec.engines))
    parts = beside.engine(shape, _heads(bases[stage.name]), setup, sequences, length)
    share = (spec.gpu_memory or beside.VLLM_SHARE) if on_gpu else None
    own = spec.tensor_parallel if on_gpu and spec.placement == "apart" else 0
    others = [Beside("engine", spec.engines, parts, own, share)]
    for name in dict.fromkeys(one.stage for one in (*stage.rewards, *stage.judges) if one.stage is not None):
        of = shape_of(bases[name].config) if name in bases else shape
        others.append(Beside(f"reward model {name}", 1, beside.reward_model(of, setup), 1 if on_gpu else 0))
    return found, others


def _heads(base: Base) -> dict[str, int]:
    text = config_of(base.config).get_text_config()
    heads = int(text.num_attention_heads)
    return {
        "layers": int(text.num_hidden_layers),
        "kv_heads": int(getattr(text, "num_key_value_heads", None) or heads),
        "head_size": int(getattr(text, "head_dim", None) or text.hidden_size // heads),
    }


def _disk(stage: LearningStage, shape: Shape, setup: Setup) -> int:
    """Checkpoints, of which one more is there while the next is written, and the artifact."""
    trained = trained_weights(shape, setup.adapter)
    one = int((4 + optimizer_bytes(setup.optimizer)) * trained)
    artifact = 4 * trained if setup.adapter.is_beside else shape.stored * shape.weights
    return one * (stage.num_checkpoints + 1) + artifact
