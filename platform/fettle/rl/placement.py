"""Where a stage's engines live: on resources of their own, or on its workers' GPUs, which they take turns with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ray
import torch.distributed as dist
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from fettle.errors import FettleError
from fettle.recipe.cluster import ClusterSpec
from fettle.rl.job import RlJob

Places = list[tuple[str, list[str]]]
"""Of each worker: its node, and the numbers of its GPUs there."""


def places_of_workers() -> Places:
    """All workers call it together."""
    context = ray.get_runtime_context()
    mine = (context.get_node_id(), list(context.get_accelerator_ids().get("GPU", [])))
    if not dist.is_initialized():
        return [mine]
    found: Places = [mine] * dist.get_world_size()
    dist.all_gather_object(found, mine)
    return found


def resources_apart(job: RlJob, cluster: ClusterSpec) -> list[dict[str, Any]]:
    """Ray's options of each engine. Where they take turns with the learner on CPUs, they reserve none."""
    cpus = cluster.cpus_per_worker if job.spec.max_staleness else 0
    gpus = job.spec.rollout.tensor_parallel if cluster.gpus_per_worker else 0
    return [{"num_cpus": cpus, "num_gpus": gpus}] * job.spec.rollout.engines


def resources_shared(job: RlJob, places: Places) -> list[dict[str, Any]]:
    """Ray's options of each engine, which lives on the GPUs of the next `tensor_parallel` workers and reserves none:
    they are its workers'. Raises FettleError where those workers are on several nodes."""
    width, found = job.spec.rollout.tensor_parallel, []
    for number in range(job.spec.rollout.engines):
        mine = places[number * width : (number + 1) * width]
        nodes = {node for node, _ in mine}
        if len(nodes) > 1:
            raise FettleError(
                f"rollout.placement: shared puts engine {number} on the GPUs of workers {number * width} to"
                f" {(number + 1) * width - 1}, which are on {len(nodes)} nodes; an engine's GPUs have to be on one:"
                " set rollout.tensor_parallel to a divisor of the GPUs of a node, or placement: apart"
            )
        found.append(_pinned(mine[0][0], [gpu for _, gpus in mine for gpu in gpus]))
    return found


def _pinned(node: str, gpus: Sequence[str]) -> dict[str, Any]:
    visible = {"CUDA_VISIBLE_DEVICES": ",".join(gpus), "RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1"}
    return {
        "num_cpus": 0,
        "num_gpus": 0,
        "scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False),
        "runtime_env": {"env_vars": visible},
    }
