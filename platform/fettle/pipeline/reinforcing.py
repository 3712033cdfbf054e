"""A stage of reinforcement learning, as a plan and as a job; and what can be known to go wrong before it starts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from fettle.artifact import digest_file, is_artifact, read_artifact
from fettle.engine.supports import has_lora
from fettle.errors import UserError
from fettle.models.base import digest_of, resolve_base
from fettle.models.family import family_of
from fettle.models.heads import own_rows
from fettle.models.packed import why_not_packed
from fettle.models.precision import resolve_precision
from fettle.pipeline.origin import Origin
from fettle.pipeline.planned import Planned, PlannedRl, PlannedSource, hash_of, what_decides
from fettle.recipe import Recipe
from fettle.recipe.adapter import AdapterSpec
from fettle.recipe.cluster import ClusterSpec, Precision
from fettle.recipe.rl import RlStage
from fettle.rl.environment import check_environment, episode_template
from fettle.rl.job import RlJob
from fettle.rl.prompts import Prompt, prompts_in, split_prompts
from fettle.rl.rewards.builtins import check_records
from fettle.rl.rewards.function import FunctionScorer
from fettle.serving.weights import check_model

# Keys that change nothing in what is computed, or are in the fingerprint in resolved form.
_CHANGES_NOTHING: Any = dict.fromkeys(
    ("name", "checkpoint", "prompts", "cluster", "adapter", "from_", "base", "max_length", "gap", "recorder"), True
) | {"heldout": {"data"}, "rollout": {"sync_timeout_s", "answer_timeout_s"}}


def plan_rl(
    recipe: Recipe,
    stage: RlStage,
    origin: Origin,
    adapter: AdapterSpec,
    max_length: int,
    prompts: tuple[PlannedSource, ...],
    heldout: PlannedSource | None,
    earlier: Mapping[str, Planned],
    out: Path,
) -> PlannedRl:
    """The stage with everything resolved. Raises UserError with file, line and field where it cannot be done."""
    cluster = stage.cluster or recipe.cluster
    precision = rl_precision(cluster)
    models = {
        spec.stage: reward_model(recipe, spec.stage, f"stages.{stage.name}.{key}.{number}.stage", earlier)
        for key, specs in (("rewards", stage.rewards), ("judges", stage.judges))
        for number, spec in enumerate(specs)
        if spec.stage is not None
    }
    critic = None
    if stage.algorithm.critic is not None:
        field = f"stages.{stage.name}.algorithm.critic"
        critic = reward_model(recipe, stage.algorithm.critic, field, earlier)
    code = tuple((name, digest_file(file)) for name, file in _code(recipe, stage) if file.is_file())
    fingerprint = hash_of(
        {
            "stage": _computed(stage, dict(code), {name: identity for name, (_, identity) in models.items()}),
            "prompts": [source.digest for source in prompts],
            "heldout": heldout.digest if heldout else None,
            "critic": critic[1] if critic else None,
            **what_decides(recipe.seed, origin, adapter, cluster, precision, max_length),
        }
    )
    label = f"{stage.name}-{fingerprint[:12]}"
    return PlannedRl(
        spec=stage,
        cluster=cluster,
        adapter=adapter,
        origin=origin,
        prompts=prompts,
        heldout=heldout,
        models=tuple((name, folder) for name, (folder, _) in models.items()),
        critic=critic[0] if critic else None,
        code=code,
        max_length=max_length,
        precision=precision,
        fingerprint=fingerprint,
        folder=out / "stages" / label,
        artifact=out / "artifacts" / label,
    )


def rl_precision(cluster: ClusterSpec) -> Precision:
    """As of any stage, but by default on a CPU fp32: there sampler and learner are other programs, and bfloat16's
    noise is 0.2 to 0.6 nats at the largest token."""
    if cluster.precision is None and not cluster.gpus_per_worker:
        return "fp32"
    return resolve_precision(cluster)


def check_rl(recipe: Recipe, stage: PlannedRl, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """What to tell of the stage's prompts. Raises UserError where the model cannot be sampled from by the engines, a
    reward cannot be given, or the prompts leave no room for answers."""
    _check_model(recipe, stage)
    spec = stage.spec
    at = f"stages.{spec.name}"
    if spec.environment is not None:
        check_environment(spec.environment, recipe.resolve, **recipe.where(f"{at}.environment"))
        episode_template(tokenizer, **recipe.where(f"{at}.environment"))
    for key, specs in (("rewards", spec.rewards), ("judges", spec.judges)):
        for number, one in enumerate(specs):
            if one.function is not None:
                FunctionScorer(one.function, recipe.resolve, **recipe.where(f"{at}.{key}.{number}.function"))
    prompts, notes = _prompts(recipe, stage, stage.prompts, tokenizer)
    own = None
    if stage.heldout is not None:
        own, more = _prompts(recipe, stage, (stage.heldout,), tokenizer)
        notes += more
    for one in (*spec.rewards, *spec.judges):
        check_records(one, [prompt.record for prompt in (*prompts, *(own or []))])
    split = split_prompts(prompts, own, spec.heldout, recipe.seed)
    if not split.trained:
        got = "every prompt is held out"
        raise UserError(got, **recipe.where(f"{at}.heldout"), fix="hold out fewer of them, or give more prompts")
    notes.append(f"{at}: {len(split.trained):,} prompts to learn from, {len(split.heldout):,} held out")
    return notes


def rl_job(recipe: Recipe, stage: PlannedRl, tokenizer: PreTrainedTokenizerBase, end_ids: tuple[int, ...]) -> RlJob:
    """What the workers are handed of it."""
    told = stage.spec.packing
    packs = why_not_packed(stage.origin.root, stage.adapter) is None if told is None else told
    return RlJob(
        name=stage.spec.name,
        fingerprint=stage.fingerprint,
        spec=stage.spec.model_copy(update={"packing": packs}),
        adapter=stage.adapter,
        seed=recipe.seed,
        base=stage.origin.base,
        from_adapter=stage.origin.adapter,
        max_length=stage.max_length,
        precision=stage.precision,
        folder=stage.folder,
        artifact=stage.artifact,
        recipe=recipe.digest(),
        data=(*((source.opened.spec.path, source.digest) for source in stage.prompts), *stage.code),
        data_licences=tuple((source.opened.spec.path, source.licences) for source in stage.prompts),
        pad_id=tokenizer.pad_token_id or 0,
        end_ids=end_ids,
        chat_template=stage.origin.chat_template,
        prompts=tuple(source.opened for source in stage.prompts),
        heldout_prompts=stage.heldout.opened if stage.heldout else None,
        models=stage.models,
        critic=stage.critic,
        recipe_folder=recipe.file.parent.resolve(),
    )


def reward_model(recipe: Recipe, name: str, field: str, earlier: Mapping[str, Planned]) -> tuple[Path, str]:
    """(folder, identity) of an earlier reward stage's result, or of the reward model in a folder."""
    where = recipe.where(field)
    if name in earlier:
        if earlier[name].spec.kind != "reward":
            raise UserError(
                f"'{name}' is a stage of kind {earlier[name].spec.kind}, which scores no answers",
                **where,
                expected="a stage of kind reward",
            )
        return earlier[name].artifact, earlier[name].fingerprint
    folder = recipe.resolve(name)
    if not folder.is_dir():
        stages = [other for other, planned in earlier.items() if planned.spec.kind == "reward"]
        raise UserError(
            f"no earlier stage, and no folder, '{name}'",
            **where,
            expected=", ".join(stages) or "an earlier stage of kind reward, or a reward model's folder",
        )
    resolve_base(folder, None, **where)
    kind = read_artifact(folder).kind if is_artifact(folder) else "reward" if own_rows(folder) == 1 else "model"
    if kind != "reward":
        raise UserError(f"{name} is of kind {kind}, which scores no answers", **where, expected="a reward model")
    return folder, digest_of(folder)


def _code(recipe: Recipe, stage: RlStage) -> list[tuple[str, Path]]:
    """The user's own files that decide rewards and environments."""
    named = [one.function for one in (*stage.rewards, *stage.judges)] + [stage.environment]
    return [(name, recipe.resolve(name.rpartition(":")[0])) for name in named if name is not None]


def _computed(stage: RlStage, code: dict[str, str], models: dict[str, str]) -> dict[str, Any]:
    """The stage's keys that decide what it computes, files and models in place of where they lie."""
    told = stage.model_dump(mode="json", exclude=_CHANGES_NOTHING)
    for one in (*told["rewards"], *told["judges"]):
        one["stage"] = models.get(one["stage"])
        one["function"] = _named_in(one["function"], code)
    told["environment"] = _named_in(stage.environment, code)
    told["algorithm"].pop("critic")
    return told


def _named_in(name: str | None, code: dict[str, str]) -> str | None:
    return f"{code.get(name)}:{name.rpartition(':')[2]}" if name is not None else None


def _check_model(recipe: Recipe, stage: PlannedRl) -> None:
    spec, root = stage.spec, stage.origin.root
    at = f"stages.{spec.name}"
    error = partial(_error, recipe)
    begins_from = stage.origin.adapter or stage.origin.base
    kind = read_artifact(begins_from).kind if is_artifact(begins_from) else "model"
    if kind not in ("model", "adapter") or family_of(root) != "causal":
        key = f"{at}.from" if spec.from_ is not None else f"{at}.base" if spec.base is not None else "base"
        raise error(key, f"{begins_from.name} writes no text, token by token", expected="a causal language model")
    check_model(root)
    adapter = f"{at}.adapter" if spec.adapter is not None else "adapter"
    if stage.adapter.is_beside and stage.adapter.kind != "lora":
        got = f"vLLM applies no {stage.adapter.kind} adapters, and so cannot sample from this policy"
        raise error(f"{adapter}.kind", got, expected="lora, full, freeze or lisa")
    if stage.adapter.kind == "lora":
        for architecture in _architectures(root):
            if has_lora(architecture) is False:
                got = f"vLLM applies no adapters to {architecture}, and so cannot sample from this policy"
                raise error(f"{adapter}.kind", got, expected="full, freeze or lisa")
        if stage.adapter.bits == 8:
            got = (
                "8 bits round what flows through the layers too, which no engine does: sampler and learner would differ"
            )
            raise error(f"{adapter}.bits", got, expected="bits: 4, or none")
    merges = not stage.adapter.is_beside and stage.origin.adapter is not None
    if merges and stage.cluster.zero == 3 and spec.kl.coef > 0:
        got = "with ZeRO 3 the reference cannot be merged from an adapter"
        raise error(f"{at}.from", got, fix="merge it in a stage of its own (kind: merge), or kl: {coef: 0}")
    if spec.packing and (reason := why_not_packed(root, stage.adapter)):
        raise error(f"{at}.packing", f"packing is not possible here: {reason}", fix="remove it, or say packing: false")


def _architectures(root: Path) -> list[str]:
    return list(json.loads((root / "config.json").read_text(encoding="utf-8")).get("architectures") or ())


def _prompts(
    recipe: Recipe, stage: PlannedRl, sources: tuple[PlannedSource, ...], tokenizer: PreTrainedTokenizerBase
) -> tuple[list[Prompt], list[str]]:
    """(the prompts that leave room for an answer, what to tell of the others)."""
    room = stage.max_length - stage.spec.rollout.max_new_tokens
    found, notes = [], []
    for source in sources:
        prompts = list(prompts_in(source.opened, tokenizer))
        fitting = [one for one in prompts if len(one.ids) <= room]
        if not fitting:
            shortest = min((len(one.ids) for one in prompts), default=0)
            raise UserError(
                f"of {len(prompts):,} prompts none has at most the {max(room, 0)} tokens that max_length"
                f" {stage.max_length} leaves beside rollout.max_new_tokens {stage.spec.rollout.max_new_tokens}; the"
                f" shortest has {shortest}",
                **recipe.where(source.field),
                fix="a larger max_length, or a smaller rollout.max_new_tokens",
            )
        if num_long := len(prompts) - len(fitting):
            notes.append(
                f"{source.field}: of {len(prompts):,} prompts {num_long:,} are longer than {room} tokens, and left out"
            )
        found += fitting
    return found, notes


def _error(recipe: Recipe, field: str, got: str, **more: Any) -> UserError:
    return UserError(got, **recipe.where(field), **more)
