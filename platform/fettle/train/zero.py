"""DeepSpeed: its configuration, what of it is built at set-up, and gathering a sharded model. Its only importer."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fettle.recipe.cluster import ClusterSpec

if TYPE_CHECKING:
    import torch
    from transformers import Trainer


def needs_engine(cluster: ClusterSpec) -> bool:
    """Whether the group trains through a DeepSpeed engine: one worker at ZeRO 0 gains nothing from one."""
    return cluster.workers > 1 or cluster.zero > 0


def zero_config(cluster: ClusterSpec) -> dict[str, Any]:
    """The DeepSpeed configuration of a worker group; "auto" is filled in by transformers from its own arguments.

    Mixed precision is off here: autocast lies inside the model's forward, the same with and without an engine.
    """
    zero: dict[str, Any] = {"stage": cluster.zero, "overlap_comm": False}
    if cluster.zero == 3:
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 1_000_000,
    }
    if cluster.offload:
        # A client's own torch optimizer cannot be offloaded (train.md 1): DeepSpeed's AdamW has to be the config's.
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
        config["optimizer"] = {
            "type": "AdamW",
            "params": {"lr": "auto", "betas": "auto", "eps": "auto", "weight_decay": "auto"},
        }
    return config


def load_deepspeed() -> Any:
    """The library, without MLflow: its autotuner, which nobody asks for, imports that wherever it is installed, which
    takes 2 s and 140 MiB in every worker (2026-11).

    What it builds is built by the ninja beside Python, whether its environment is activated or not: another version
    does not read the first one's log, and builds for half a minute what is there.
    """
    path, own = os.environ.get("PATH", ""), str(Path(sys.executable).parent)
    if path.split(os.pathsep)[0] != own:
        os.environ["PATH"] = f"{own}{os.pathsep}{path}"
    hides = "mlflow" not in sys.modules
    if hides:
        sys.modules["mlflow"] = None  # type: ignore[assignment]  # Python's own way to say that there is none
    try:
        import deepspeed
    finally:
        if hides:
            del sys.modules["mlflow"]
    return deepspeed


def full_state(trainer: Trainer) -> dict[str, torch.Tensor] | None:
    """Every weight of the trained model on rank 0, but the frozen ones beside an adapter may be missing; None
    elsewhere. All ranks have to call it (ZeRO 3 gathers)."""
    assert trainer.model is not None
    engine: Any = trainer.deepspeed if trainer.is_deepspeed_enabled else None
    if engine is not None and engine.zero_optimization_stage() == 3:
        is_beside = hasattr(trainer.model, "peft_config")
        found: dict[str, torch.Tensor] | None = engine._zero3_consolidated_16bit_state_dict(
            exclude_frozen_parameters=is_beside
        )
        return found
    if not trainer.is_world_process_zero():
        return None
    state = trainer.model.state_dict()
    return _apart(state, trainer.model) if engine is not None else state


def _apart(state: dict[str, torch.Tensor], model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Copies of what is trained, which ZeRO keeps as pieces of long vectors, in the host's memory; those that are one
    tensor in the model are one here too, so that it is saved once. (accelerate's `get_state_dict` copies on every
    rank, and the frozen weights too, of which an adapter's artifact has none.)"""
    trained = {weight.data_ptr() for weight in model.parameters() if weight.requires_grad}
    copies: dict[int, torch.Tensor] = {}
    for name, weight in state.items():
        if (key := weight.data_ptr()) in trained:
            if key not in copies:
                copies[key] = weight.detach().to("cpu", copy=True)
            state[name] = copies[key]
    return state


@contextmanager
def whole(weights: Sequence[torch.Tensor]) -> Iterator[None]:
    """Weights that ZeRO 3 has sharded are whole inside; what is written into them there, by all ranks alike, stays."""
    sharded = [weight for weight in weights if hasattr(weight, "ds_id")]
    if not sharded:
        yield
        return
    with load_deepspeed().zero.GatheredParameters(sharded, modifier_rank=0):
        yield


def scale_losses_of(optimizer: Any, first_scale: float, steps_to_double: int) -> None:
    """Has a ZeRO 1 or 2 optimizer scale losses and leave out the steps in which any worker's gradients overflow.

    Its own switch, `fp16`, would turn the weights themselves into float16. One that has been loaded from a checkpoint
    goes on with the scale it had. (ZeRO 3 looks for overflows in float16 weights only.)
    """
    load_deepspeed()
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler

    optimizer.check_grad_overflow = True
    if not optimizer.loss_scaler.dynamic:
        optimizer.loss_scaler = DynamicLossScaler(
            init_scale=first_scale,
            scale_window=steps_to_double,
            min_scale=1.0,
            delayed_shift=1,
            consecutive_hysteresis=False,
            raise_error_at_min_scale=False,
        )


def engine_scale(optimizer: Any) -> dict[str, float] | None:
    """The scale of an optimizer whose losses are scaled, and the steps since the last overflow; None of another."""
    scaler: Any = getattr(optimizer, "loss_scaler", None)
    if not getattr(scaler, "dynamic", False):
        return None
    return {"scale": float(scaler.cur_scale), "steps": scaler.cur_iter - scaler.last_overflow_iter - 1}


def restore_engine_scale(optimizer: Any, scale: float, steps: int) -> None:
    """Goes on with it."""
    scaler = optimizer.loss_scaler
    scaler.cur_scale, scaler.cur_iter, scaler.last_overflow_iter = scale, steps, -1


def prebuild() -> None:
    """Builds the one op DeepSpeed needs on CPUs, in one process; inside workers an interrupted build locks the rest."""
    load_deepspeed()
    from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder

    ShareMemCommBuilder().load(verbose=False)
