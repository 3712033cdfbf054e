"""`algorithm`, `kl`: what reinforcement learning makes of rewards; a key the kind has no use for is refused."""

from typing import Any, Literal

from pydantic import Field, model_validator

from fettle.recipe.spec import Spec, check_keys, with_defaults

AlgorithmKind = Literal["ppo", "grpo", "dr_grpo", "rloo", "reinforce_pp", "reinforce_pp_baseline", "raft", "online_dpo"]
Estimator = Literal["k1", "k2", "k3"]
_CLIP: dict[str, Any] = {"clip_low": 0.2, "clip_high": 0.2, "dual_clip": None, "importance_cap": 2.0}
_GAE: dict[str, Any] = {
    "gamma": 1.0,
    "gae_lambda": 0.95,
    "value_clip": 0.2,
    "value_coef": 0.1,
    "whiten": True,
    "critic": None,
    "critic_lr": None,
    "critic_warmup": 0,
}
_KINDS: dict[str, dict[str, Any]] = {
    "ppo": _CLIP | _GAE,
    "grpo": _CLIP | {"level": "token", "average": "answers"},
    "dr_grpo": _CLIP,
    "rloo": _CLIP | {"level": "token"},
    "reinforce_pp": _CLIP | {"gamma": 1.0},
    "reinforce_pp_baseline": _CLIP | {"gamma": 1.0},
    "raft": {},
    "online_dpo": _CLIP,
}
LEAST_SAMPLES: dict[str, int] = {
    "ppo": 1,
    "grpo": 2,
    "dr_grpo": 2,
    "rloo": 2,
    "reinforce_pp": 1,
    "reinforce_pp_baseline": 2,
    "raft": 2,
    "online_dpo": 2,
}
"""Answers to each prompt that the kind needs."""
_KL_IN: dict[str, str] = {"grpo": "loss", "dr_grpo": "loss", "reinforce_pp_baseline": "loss"}
_ESTIMATORS = {"reward": "k1", "loss": "k3"}


class AlgorithmSpec(Spec):
    """What is learned from rewards; `algorithm: grpo` is enough to name the kind. Keys without a default of their own
    belong to the kinds they name."""

    kind: AlgorithmKind
    """ppo (Schulman et al. 2017, arXiv:1707.06347; with a critic), grpo (Shao et al. 2024, arXiv:2402.03300), dr_grpo
    (Liu et al. 2025, arXiv:2503.20783), rloo (Ahmadian et al. 2024, arXiv:2402.14740), reinforce_pp and
    reinforce_pp_baseline (Hu et al. 2025, arXiv:2501.03262), raft (Dong et al. 2023, arXiv:2304.06767: the best of
    n), online_dpo (Guo et al. 2024, arXiv:2402.04792: the best against the worst)."""
    epochs: int = Field(1, ge=1)
    """Passes over an iteration's rollouts."""
    truncated: Literal["learn", "mask"] = "learn"
    """Answers that were broken off at `max_new_tokens` are learned from like others, or (`mask`) only count in what
    others are compared with (Yu et al. 2025, DAPO, arXiv:2503.14476, section 3.4)."""
    clip_low: float | None = Field(None, gt=0, lt=1)
    """all but raft: by how much an answer may become less likely in an iteration, as a share; 0.2 by default."""
    clip_high: float | None = Field(None, gt=0)
    """all but raft: by how much it may become more likely (DAPO's clip-higher: try 0.28); 0.2 by default."""
    dual_clip: float | None = Field(None, gt=1)
    """all but raft: tokens to be made less likely count at most so many times, however likely they have become (Ye et
    al. 2020, arXiv:1912.09729, equation 5: 3); by default without end."""
    importance_cap: float | None = Field(None, gt=0)
    """all but raft: a token's loss is multiplied by its probability for the learner over that for the sampler, at most
    this (Yao et al. 2025, truncated importance sampling); 2 by default, null = never."""
    level: Literal["token", "sequence"] | None = None
    """grpo, rloo: whether each token is clipped by itself (the default), or an answer as a whole: of grpo by the
    geometric mean of its tokens' ratios (GSPO: Zheng et al. 2025, arXiv:2507.18071, where the clips are 3e-4 and 4e-4),
    of rloo by their product."""
    average: Literal["answers", "tokens"] | None = None
    """grpo: the loss is a mean over answers of means over their tokens (the default), or over all tokens alike, so that
    longer answers count for more (DAPO, section 3.3)."""
    gamma: float | None = Field(None, gt=0, le=1)
    """ppo, reinforce_pp, reinforce_pp_baseline: discount of later rewards, for each token; 1 by default."""
    gae_lambda: float | None = Field(None, ge=0, le=1)
    """ppo: λ of generalised advantage estimation (Schulman et al. 2015, arXiv:1506.02438): 0 trusts the critic, 1 the
    rewards; 0.95 by default."""
    value_clip: float | None = Field(None, gt=0)
    """ppo: by how much a value may move in an iteration; 0.2 by default, null = without end."""
    value_coef: float | None = Field(None, gt=0)
    """ppo: weight of the critic's loss; 0.1 by default."""
    critic: str | None = None
    """ppo: the earlier reward stage, or the reward model's folder, that the critic begins as; by default the model that
    the policy begins from, under a new head."""
    critic_lr: float | None = Field(None, gt=0)
    """ppo: the critic's peak learning rate; ten times `lr` by default."""
    critic_warmup: int | None = Field(None, ge=0)
    """ppo: in so many first iterations the critic learns alone, so that the policy is not led by a critic that knows
    nothing yet (as in verl); 0 by default. optimizer.weight_decay and the schedule go on meanwhile."""
    whiten: bool | None = None
    """ppo: advantages are made to have mean 0 and variance 1 over an iteration's tokens; true by default."""

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_kind(cls, value: Any) -> Any:
        return with_defaults(value, "", _KINDS)

    @model_validator(mode="after")
    def _keys_of_the_kind(self) -> "AlgorithmSpec":
        check_keys(self, _KINDS)
        if self.dual_clip is not None and self.clip_high is not None and self.dual_clip <= 1 + self.clip_high:
            raise ValueError(f"dual_clip {self.dual_clip:g} lies inside the clip, which ends at {1 + self.clip_high:g}")
        if self.level == "sequence" and self.average == "tokens":
            raise ValueError("average: tokens goes with level: token; an answer's one ratio counts once")
        return self


class KlSpec(Spec):
    """What holds the policy to its reference, which is what it was at the beginning of the stage."""

    coef: float = Field(0.05, ge=0)
    """Weight of the divergence; 0 = none, and no reference is asked. Of online_dpo it is β, 0.1 by default."""
    in_: Literal["reward", "loss"] | None = Field(None, alias="in")
    """Whether it is taken off the rewards, or added to the loss; by default off the rewards, with grpo, dr_grpo and
    reinforce_pp_baseline added to the loss; with online_dpo neither, since its preferences hold the divergence."""
    estimator: Estimator | None = None
    """Schulman 2020, "Approximating KL divergence": k1, the log-ratio (the default in rewards), k2, half its square (in
    the loss the one whose gradient is right), k3, never negative (the default in the loss; GRPO's), with
    reinforce_pp_baseline k2 in the loss by default."""
    target: float | None = Field(None, gt=0)
    """Nats an answer that `coef` is steered to (Ziegler et al. 2019, arXiv:1909.08593, section 2.2: 6 for 24 tokens);
    by default it stays as it is."""

    @model_validator(mode="after")
    def _has_an_effect(self) -> "KlSpec":
        if self.coef == 0:
            for key, given in (("in", self.in_), ("estimator", self.estimator), ("target", self.target)):
                if given is not None:
                    raise ValueError(f"{key} has no effect with coef: 0")
        if self.in_ == "loss" and self.estimator == "k1":
            raise ValueError("k1 has no effect in the loss: its gradient is 0 on average; use k2 or k3, or in: reward")
        return self


def kl_defaults(told: dict[str, Any], kind: str) -> dict[str, Any]:
    """The keys of `kl` with the defaults of an algorithm's kind."""
    if kind == "online_dpo":
        return {"coef": 0.1} | told
    if told.get("coef") == 0:
        return told
    place = told.get("in") or _KL_IN.get(kind, "reward")
    estimator = told.get("estimator") or _ESTIMATORS.get(place)
    if kind == "reinforce_pp_baseline" and place == "loss":
        estimator = told.get("estimator") or "k2"
    return {**told, "in": place, "estimator": estimator}
