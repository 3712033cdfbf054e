"""Whether a planned stage fits where it is to run: CPUs and GPUs, memory of each worker and of each machine, disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fettle.needs.machines import GIB, LEFT, Machines, Node
from fettle.needs.memory import HOST_LEVEL
from fettle.pipeline.planning import Lack, StagePlan


def judged(plans: Sequence[StagePlan], machines: Machines, memory: float = 1.0) -> list[StagePlan]:
    """The plans with what does not fit in each. memory: times as much of it as there is."""
    found = []
    for one in plans:
        lacking = lacks_of(one, machines, memory)
        lacks = frozenset(lack for lack, _ in lacking)
        found.append(replace(one, lacks=lacks, problems=tuple(told for _, told in lacking)))
    return found


def lacks_of(plan: StagePlan, machines: Machines, memory: float = 1.0) -> list[tuple[Lack, str]]:
    """What of the machines a stage has too little of, each in words with figures; empty where it fits."""
    left = LEFT * memory
    beside = [*_on_gpus(plan, machines, left), *_in_hosts(plan, machines, left), *_on_disk(plan, machines)]
    return [*_places(plan, machines), *beside]


def _places(plan: StagePlan, machines: Machines) -> list[tuple[Lack, str]]:
    cluster, found = plan.cluster, list[tuple[Lack, str]]()
    cpus = cluster.fewest * cluster.cpus_per_worker + plan.cpus_beside
    there = machines.num_cpus
    if there is not None and cpus > there:
        engines = f", {plan.cpus_beside} of them for engines that generate meanwhile" if plan.cpus_beside else ""
        found.append(("cpus", f"it takes {cpus} CPU cores{engines}, and there are {there}"))
    gpus = cluster.fewest * cluster.gpus_per_worker + sum(one.gpus * one.count for one in plan.beside)
    if gpus > machines.num_gpus:
        beside = sum(one.gpus * one.count for one in plan.beside)
        more = (
            f", {beside} of them for {' and '.join(one.name + 's' for one in plan.beside if one.gpus)}"
            if beside
            else ""
        )
        found.append(("gpus", f"it takes {gpus} GPU{'s' if gpus > 1 else ''}{more}, and there are {machines.num_gpus}"))
    widest = max((one.gpus for one in plan.beside), default=0)
    most = max((node.gpus for node in machines.nodes), default=0)
    if most and widest > most:
        found.append(("gpus", f"an engine takes {widest} GPUs of one machine, and none has more than {most}"))
    return found


def _on_gpus(plan: StagePlan, machines: Machines, left: float) -> list[tuple[Lack, str]]:
    gpu = machines.gpu
    if not plan.cluster.gpus_per_worker or gpu is None:
        return []
    room, found = gpu.memory * GIB * left, list[tuple[Lack, str]]()
    if plan.peak.total > room:
        told = f"a worker takes {_gib(plan.peak.total)} ({plan.peak.name}), and {gpu.name} has {gpu.memory:.1f} GiB"
        found.append(("memory", told))
    for one in plan.beside:
        share = one.share or 1.0
        each = one.total / max(1, one.gpus) if one.share is not None else one.total
        if each > room * share:
            told = f"{one.name} takes {_gib(each)} of a GPU"
            found.append(("engine", f"{told}, and may take {share:.0%} of {gpu.name}'s {gpu.memory:.1f} GiB"))
    return found


def _in_hosts(plan: StagePlan, machines: Machines, left: float) -> list[tuple[Lack, str]]:
    """Each machine has an equal share of the workers; what is beside them is spread over the machines too."""
    found = list[tuple[Lack, str]]()
    cluster, nodes = plan.cluster, [node for node in machines.nodes if node.memory is not None]
    if not nodes:
        return []
    smallest = min(nodes, key=lambda node: node.memory or 0)
    count = sum(node.count for node in nodes)
    here = -(-cluster.fewest // count)
    if cluster.gpus_per_worker:
        each = max(moment.host_total for moment in plan.moments)
        wanted = here * each
        told = f"{here} worker{'s' if here > 1 else ''} of {_gib(each)} of the host's memory"
    else:
        each = plan.peak.total + HOST_LEVEL
        others = sum(one.total * one.count for one in plan.beside)
        wanted = here * each + others // count
        told = f"{here} worker{'s' if here > 1 else ''} of {_gib(each)}"
        told += f" ({plan.peak.name})"
        if others:
            names = ", ".join(f"{one.count} {one.name}{'s' if one.count > 1 else ''}" for one in plan.beside)
            told += f" and {_gib(others)} of {names}"
    assert smallest.memory is not None
    if wanted > smallest.memory * GIB * left:
        found.append(("host", f"{told} are more than the {smallest.memory:.1f} GiB of {_called(smallest)}"))
    return found


def _on_disk(plan: StagePlan, machines: Machines) -> list[tuple[Lack, str]]:
    room = next((node.disk for node in machines.nodes if node.disk is not None), None)
    if room is None or plan.disk <= room * GIB:
        return []
    return [("disk", f"checkpoints and artifact take {_gib(plan.disk)}, and {room:.1f} GiB are free")]


def _called(node: Node) -> str:
    return node.name if node.name == "this machine" else f"a machine of type {node.name}"


def _gib(size: float) -> str:
    return f"{size / GIB:.1f} GiB"
