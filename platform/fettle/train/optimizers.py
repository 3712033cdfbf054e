"""A recipe's optimizer over a model's parameters: torch's own, one or, for Muon, two in one."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch.optim import SGD, Adafactor, Adam, AdamW, Muon, Optimizer, RMSprop
from transformers import PreTrainedModel

from fettle.errors import UserError
from fettle.recipe.optimizer import OptimizerSpec

Groups = list[dict[str, Any]]


def make_optimizer(spec: OptimizerSpec, groups: Groups, lr: float, matrices: Collection[int] = ()) -> Optimizer:
    """The optimizer of `spec` over parameter groups, each `{params, weight_decay}`, with an `lr` of its own or `lr`.

    matrices: ids of the parameters that Muon orthogonalises; AdamW takes all others.
    """
    if spec.kind == "muon":
        return MuonWithAdamW(spec, groups, lr, matrices)
    makers: dict[str, Callable[..., Optimizer]] = {
        # Fused: one pass over each weight, the form transformers takes by default.
        "adamw": lambda: AdamW(groups, lr=lr, fused=True, **_of_adam(spec)),
        "adam": lambda: Adam(groups, lr=lr, fused=True, **_of_adam(spec)),
        "sgd": lambda: SGD(groups, lr=lr, momentum=_given(spec.momentum)),
        "rmsprop": lambda: RMSprop(
            groups, lr=lr, alpha=_given(spec.smoothing), eps=_given(spec.eps), momentum=_given(spec.momentum)
        ),
        "adafactor": lambda: Adafactor(groups, lr=lr),
        "adamw_8bit": lambda: _adamw_8bit(spec, groups, lr),
    }
    return makers[spec.kind]()


def parameter_groups(
    model: torch.nn.Module,
    decaying: Collection[str],
    weight_decay: float,
    rate_of: Callable[[str], float | None] | None = None,
) -> Groups:
    """The trainable parameters in those that decay (by name) and those that do not; no group is empty. rate_of: the
    rate of a parameter, by name, that does not learn at the stage's; those are in groups of their own after the others,
    whose rate is the one that is told."""
    found: dict[tuple[float, bool], list[torch.nn.Parameter]] = {}
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            rate = rate_of(name) if rate_of is not None else None
            found.setdefault((rate or 0.0, name not in decaying), []).append(weight)
    return [
        {"params": weights, "weight_decay": 0.0 if stays else weight_decay} | ({"lr": rate} if rate else {})
        for (rate, stays), weights in sorted(found.items(), key=lambda one: one[0])
    ]


def hidden_matrices(model: PreTrainedModel) -> set[int]:
    """Ids of the two-dimensional weights of a model's body: no embeddings, no head (Jordan 2024: Muon is not for them).

    https://kellerjordan.github.io/posts/muon
    """
    body: torch.nn.Module = model.base_model
    outside = [module for module in body.modules() if isinstance(module, torch.nn.Embedding)]
    outside += [head] if (head := model.get_output_embeddings()) is not None else []
    others = {id(weight) for module in outside for weight in module.parameters()}
    return {id(weight) for weight in body.parameters() if weight.ndim == 2} - others


def adam_arguments(spec: OptimizerSpec) -> dict[str, float]:
    """For transformers' arguments, from which DeepSpeed's own AdamW is made where it is offloaded."""
    if spec.kind != "adamw":
        return {}
    return {
        "adam_beta1": _given(spec.beta1),
        "adam_beta2": _given(spec.beta2),
        "adam_epsilon": _given(spec.eps),
        "weight_decay": spec.weight_decay,
    }


class MuonWithAdamW(Optimizer):
    """Muon over the matrices, AdamW over all else, with one list of groups and one state for both.

    Muon's steps are scaled to the root mean square of AdamW's, so that one `lr` and one weight decay suit both (Liu et
    al. 2025, arXiv:2502.16982, section 2.2).
    """

    def __init__(self, spec: OptimizerSpec, groups: Groups, lr: float, matrices: Collection[int]) -> None:
        inside, outside = _split(groups, matrices, True), _split(groups, matrices, False)
        if not inside:
            raise UserError("optimizer: muon: nothing that is trained is a matrix of a layer", fix="optimizer: adamw")
        self.parts: list[Optimizer] = [
            Muon(inside, lr=lr, momentum=_given(spec.momentum), adjust_lr_fn="match_rms_adamw")
        ]
        if outside:
            self.parts.append(AdamW(outside, lr=lr, fused=True, **_of_adam(spec)))
        super().__init__([group for part in self.parts for group in part.param_groups], {})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step of both, over this optimizer's groups and state, which a checkpoint or a split may have replaced."""
        assert closure is None
        for part in self.parts:
            of_muon = isinstance(part, Muon)
            part.param_groups = [group for group in self.param_groups if ("ns_steps" in group) is of_muon]
            part.state = self.state
            part.step()


def _adamw_8bit(spec: OptimizerSpec, groups: Groups, lr: float) -> Optimizer:
    from bitsandbytes.optim import AdamW8bit

    made: Optimizer = AdamW8bit(groups, lr=lr, **_of_adam(spec))
    return made


def _split(groups: Groups, matrices: Collection[int], inside: bool) -> Groups:
    """The groups with those of their parameters alone that are, or are not, among the matrices."""
    parts = [{**group, "params": [w for w in group["params"] if (id(w) in matrices) is inside]} for group in groups]
    return [part for part in parts if part["params"]]


def _of_adam(spec: OptimizerSpec) -> dict[str, Any]:
    return {"betas": (_given(spec.beta1), _given(spec.beta2)), "eps": _given(spec.eps)}


def _given(value: float | None) -> float:
    """A setting of the kind, which has a default."""
    assert value is not None
    return value
