"""`sweep`: which keys of the recipe are searched, how, how far, and by what a trial is judged."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import Field, model_validator

from fettle.recipe.spec import Spec

Search = Literal["grid", "random", "optuna", "asha", "median", "pbt"]
IN_ROUNDS = ("asha", "median", "pbt")
"""Searches that compare trials on the way, after each round of a stage."""
_EVALUATED = "evaluate."


class DomainSpec(Spec):
    """The values of one key: exactly one of these."""

    choice: tuple[Any, ...] | None = Field(None, min_length=1)
    """These values."""
    uniform: tuple[float, float] | None = None
    """Any number between two."""
    loguniform: tuple[float, float] | None = None
    """Any number between two above 0, as likely in each tenfold: for learning rates."""
    int_: tuple[int, int] | None = Field(None, alias="int")
    """A whole number from the first to the second, both of them included."""

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The lowest and the highest value; None of a choice."""
        return self.uniform or self.loguniform or self.int_

    @property
    def ends(self) -> tuple[Any, ...]:
        """Values that a recipe has to take for it to take the others: each choice, or both bounds."""
        return self.choice if self.choice is not None else (self.bounds or ())

    @property
    def values(self) -> tuple[Any, ...] | None:
        """All of them, where they can be counted."""
        if self.int_ is not None:
            return tuple(range(self.int_[0], self.int_[1] + 1))
        return self.choice

    @model_validator(mode="after")
    def _one_of_four(self) -> DomainSpec:
        told = [one for one in (self.choice, self.uniform, self.loguniform, self.int_) if one is not None]
        if len(told) != 1:
            raise ValueError("give one of choice: [A, B, …], uniform: [A, B], loguniform: [A, B] or int: [A, B]")
        if self.bounds is not None and self.bounds[0] >= self.bounds[1]:
            raise ValueError(f"the first bound, {self.bounds[0]:g}, is not below the second, {self.bounds[1]:g}")
        if self.loguniform is not None and self.loguniform[0] <= 0:
            raise ValueError("loguniform's bounds are above 0")
        return self


class MetricSpec(Spec):
    """By what a trial is judged: a figure of a stage's row in the report, or of one of the recipe's `evaluate`."""

    stage: str | None = None
    """The stage; trials end with it. By default the last one."""
    name: str = Field("loss.heldout_after", min_length=1)
    """As the stage's row in report.json has it (`loss.heldout_after`, `measures.accuracy.after`,
    `reward.heldout_after`), or `evaluate.N.SCORE`: a score of the recipe's N-th `evaluate`, from 0
    (`evaluate.0.rouge1`)."""
    mode: Literal["min", "max"] = "min"
    """Whether less of it is better, or more."""

    @property
    def evaluated(self) -> tuple[int, str] | None:
        """(which of `evaluate`, the score), where it is of those."""
        if not self.name.startswith(_EVALUATED):
            return None
        number, _, score = self.name.removeprefix(_EVALUATED).partition(".")
        return int(number), score

    @model_validator(mode="after")
    def _names_a_score(self) -> MetricSpec:
        if self.name.startswith(_EVALUATED):
            number, _, score = self.name.removeprefix(_EVALUATED).partition(".")
            if not number.isdigit() or not score:
                raise ValueError(f"{self.name} is no evaluate.N.SCORE, such as evaluate.0.rouge1")
        return self

    @property
    def worst(self) -> float:
        """What a trial without a result is told to the search as."""
        return 1e30 if self.mode == "min" else -1e30

    def is_better(self, one: float, other: float) -> bool:
        """Whether the first is."""
        return one < other if self.mode == "min" else one > other


class BudgetSpec(Spec):
    """Where a sweep ends even if trials are left: at the first of these that is reached. What was begun can be gone on
    with, by the same command with a larger budget."""

    tokens: int | None = Field(None, ge=1)
    """Tokens that all trials together have learned from."""
    minutes: float | None = Field(None, gt=0)
    """Minutes of the whole sweep, over all times it was gone on with."""
    money: float | None = Field(None, gt=0)
    """What it may cost, at `price_per_hour`."""
    price_per_hour: float | None = Field(None, gt=0)
    """What the machines of the sweep cost in an hour, all of them together."""

    @property
    def seconds(self) -> float:
        """The longest that it may take."""
        limits = [self.minutes * 60] if self.minutes is not None else []
        if self.money is not None:
            assert self.price_per_hour is not None
            limits.append(self.money / self.price_per_hour * 3600)
        return min(limits, default=math.inf)

    @model_validator(mode="after")
    def _money_has_a_price(self) -> BudgetSpec:
        if (self.money is None) != (self.price_per_hour is None):
            raise ValueError("money and price_per_hour go together")
        if self.tokens is None and self.minutes is None and self.money is None:
            raise ValueError("give tokens, minutes, or money with price_per_hour")
        return self


class SweepSpec(Spec):
    """What `fettle sweep` reads: trials of the recipe, each with other values of some keys."""

    search: Search = "random"
    """grid: every combination. random: values drawn by the recipe's seed (Bergstra & Bengio 2012). optuna: drawn where
    earlier ones did well (tree-structured Parzen estimator: Bergstra et al. 2011). asha: as random, and after some
    rounds only the best go on (Li et al. 2018, arXiv:1810.05934). median: a trial ends where its best is worse than the
    median of the others' means so far (Golovin et al. 2017, Vizier). pbt: after each round the worst take over the
    weights of the best and change their settings (Jaderberg et al. 2017, arXiv:1711.09846)."""
    trials: int | None = Field(None, ge=2)
    """How many settings are tried; of a grid all."""
    metric: MetricSpec = MetricSpec()
    """By what they are judged."""
    space: dict[str, DomainSpec] = Field(min_length=1)
    """By key, as `--set` names it (`stages.sft.lr`), the values that are tried."""
    rounds: int | None = Field(None, ge=2)
    """asha, median, pbt: equal parts of the stage, after each of which its held-out records are measured; 9 by
    default."""
    reduction: int | None = Field(None, ge=2)
    """asha: one in so many goes on from each rung (after 1, 3, 9, … rounds); 3 by default."""
    grace: int | None = Field(None, ge=1)
    """asha, median: rounds that every trial has; 1 by default."""
    concurrent: int | None = Field(None, ge=1)
    """Trials at a time, at most; by default as many as the cluster has room for."""
    gpus_per_trial: float | None = Field(None, gt=0, le=1)
    """The share of a GPU that a trial of one worker takes: 0.25 puts four beside each other on one. By default 1."""
    budget: BudgetSpec | None = None
    """Where it ends even if trials are left."""

    @property
    def is_in_rounds(self) -> bool:
        """Whether trials are compared on the way."""
        return self.search in IN_ROUNDS

    @property
    def num_rounds(self) -> int:
        """Parts of the stage: 1 where trials are only compared at its end."""
        return (self.rounds or 9) if self.is_in_rounds else 1

    @model_validator(mode="after")
    def _keys_of_the_search(self) -> SweepSpec:
        known = {"rounds": IN_ROUNDS, "reduction": ("asha",), "grace": ("asha", "median")}
        for key, searches in known.items():
            if getattr(self, key) is not None and self.search not in searches:
                raise ValueError(f"{key} has no effect with search: {self.search}; it belongs to {', '.join(searches)}")
        if self.search == "grid":
            if self.trials is not None:
                raise ValueError("trials has no effect with search: grid, which tries every combination")
            endless = [key for key, one in self.space.items() if one.values is None]
            if endless:
                raise ValueError(
                    f"a grid has no end over {endless[0]}; give it as choice: [A, B, …], or search: random"
                )
        elif self.trials is None:
            raise ValueError(f"search: {self.search} needs trials: how many settings are tried")
        if self.search == "pbt" and self.trials is not None and self.trials < 4:
            raise ValueError("pbt compares a quarter of the trials with another quarter; give at least trials: 4")
        return self
