"""A stage's result as an artifact: full weights, a headed model, or an adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from fettle.artifact import library_versions, new_artifact
from fettle.models.base import digest_of, dtype_of
from fettle.models.licences import inherited
from fettle.train.job import GroupMember, LearnJob
from fettle.train.trainer import StageTrainer


def publish(
    job: LearnJob,
    base: Path,
    member: GroupMember,
    trainer: StageTrainer,
    tokenizer: PreTrainedTokenizerBase,
    state: dict[str, torch.Tensor],
    metrics: dict[str, Any],
) -> None:
    """Writes the job's artifact, on rank 0. base: the folder under an adapter. state: every weight, or an adapter's;
    metrics: what the artifact tells of the training."""
    is_adapter = job.adapter.is_beside
    base_digest = digest_of(base)
    earlier = [*([job.from_adapter] if job.from_adapter is not None else []), *job.learned_from]
    with new_artifact(
        job.artifact,
        kind="adapter" if is_adapter and trainer.task.kind == "model" else trainer.task.kind,
        name=job.name,
        fingerprint=job.fingerprint,
        may_commit=member.fence.check,
        base={"path": str(base), "digest": base_digest} if is_adapter else None,
        parents=(base_digest, *map(digest_of, earlier)),
        recipe=job.recipe,
        data=dict(job.data),
        seed=job.seed,
        versions=library_versions(),
        metrics=metrics,
        **inherited([base, *earlier], job.data_licences),
    ) as folder:
        model: Any = trainer.model
        plain = model.get_base_model() if is_adapter else model
        generates = trainer.task.kind == "model" and plain.can_generate()  # a masked language model does not
        if generates:
            generation = plain.generation_config
            generation.eos_token_id = list(job.end_ids)
            generation.pad_token_id = tokenizer.pad_token_id
        if not is_adapter:
            dtype = dtype_of(base)
            state = _cast(state, dtype)
        for config in model.peft_config.values() if is_adapter else ():
            if isinstance(getattr(config, "target_modules", None), set):
                # PEFT writes a set in an order of the process's own, and the digest would be another one each time.
                config.target_modules = sorted(config.target_modules)
        model.save_pretrained(folder, state_dict=state)
        if not is_adapter:
            model.config.dtype = dtype  # transformers notes that of the model, which was trained in float32
            model.config.save_pretrained(folder)
        if is_adapter:
            if generates:
                generation.save_pretrained(folder)
            if trainer.task.kind == "classifier":
                model.get_base_model().config.save_pretrained(folder)  # with its labels
            (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
        tokenizer.save_pretrained(folder)


def _cast(state: dict[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The weights in `dtype`; tied ones stay one tensor, so that they are saved once."""
    seen: dict[int, torch.Tensor] = {}
    return {name: seen.setdefault(value.data_ptr(), value.to(dtype)) for name, value in state.items()}
