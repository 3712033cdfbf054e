"""The algorithms of `kind: rl`, one short file each: how rewards become advantages, and which loss is wanted of them.

To add one: its class here, its keys in recipe/algorithm.py.
"""

from __future__ import annotations

from fettle.recipe.rl import RlStage
from fettle.rl.algorithms.algorithm import Algorithm
from fettle.rl.algorithms.dr_grpo import DrGrpo
from fettle.rl.algorithms.grpo import Grpo
from fettle.rl.algorithms.online_dpo import OnlineDpo
from fettle.rl.algorithms.ppo import Ppo
from fettle.rl.algorithms.raft import Raft
from fettle.rl.algorithms.reinforce_pp import ReinforcePp, ReinforcePpBaseline
from fettle.rl.algorithms.rloo import Rloo

ALGORITHMS: tuple[type[Algorithm], ...] = (Ppo, Grpo, DrGrpo, Rloo, ReinforcePp, ReinforcePpBaseline, Raft, OnlineDpo)


def algorithm_of(stage: RlStage) -> Algorithm:
    """The algorithm that a stage asks for."""
    kind = next(one for one in ALGORITHMS if one.kind == stage.algorithm.kind)
    return kind(stage.algorithm, stage.kl, max_new_tokens=stage.rollout.max_new_tokens)
