"""What the last stage's result has to reach, and where it is published when it does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fettle.errors import FettleError, GateFailed, Interrupted, UserError
from fettle.evaluate.parity import Parity
from fettle.models.family import family_of
from fettle.pipeline.evaluated import Comparison
from fettle.pipeline.planned import Planned
from fettle.recipe import Recipe
from fettle.recipe.evaluate import EvaluateSpec, LossSpec, RetentionSpec
from fettle.recipe.kinds import YIELDS_MODEL
from fettle.registry.folder import FolderRegistry
from fettle.serving.publish import publish


@dataclass(frozen=True)
class Check:
    """A score that the recipe bounds. value: the result's mean, or how much better that is than the base's (is_gain):
    above it, or (is_loss) below it. least, most: the bound, of which there is one. than: what a gain is over."""

    data: str
    score: str
    is_gain: bool
    value: float
    least: float | None = None
    most: float | None = None
    is_loss: bool = False
    than: str = "the base"

    @property
    def is_met(self) -> bool:
        """Whether it is good enough; what is no number never is."""
        return self.value >= self.least if self.least is not None else self.value <= self._bound

    @property
    def _bound(self) -> float:
        bound = self.most if self.least is None else self.least
        assert bound is not None
        return bound

    @property
    def in_short(self) -> str:
        """`rouge1 0.210, wanted 0.300`."""
        value, bound = self._numbers()
        return f"{self.score} {value}, wanted {'at most ' if self.least is None else ''}{bound}"

    def __str__(self) -> str:
        value, bound = self._numbers()
        what = f"{self.score} on {Path(self.data).name}"
        return f"{what}: {value}, at {'most' if self.least is None else 'least'} {bound} wanted"

    def _numbers(self) -> tuple[str, str]:
        sign = "+" if self.is_gain else ""
        # A bound that is missed by less than is shown would read as one that is met.
        digits = 3 if self.is_met or f"{self.value:.3f}" != f"{self._bound:.3f}" else 6
        value, bound = (f"{number:{sign}z.{digits}f}" for number in (self.value, self._bound))
        return f"{value} {'under' if self.is_loss else 'over'} {self.than}" if self.is_gain else value, bound


def goal(checks: Sequence[Check]) -> str | None:
    """`goal met`, or `goal not met: rouge1 0.210, wanted 0.300`; None where the recipe wants nothing."""
    missed = [check.in_short for check in checks if not check.is_met]
    if missed:
        return f"goal not met: {'; '.join(missed)}"
    return "goal met" if checks else None


@dataclass(frozen=True)
class Verdict:
    """checks: all that the recipe wants of its evaluations. published: the version that the result is from now on.
    why_not: what keeps it from being one. parity: of the result in the engine, where it was looked at."""

    checks: tuple[Check, ...] = ()
    published: str | None = None
    why_not: FettleError | None = None
    parity: Parity | None = None


def judge(
    recipe: Recipe,
    compared: Sequence[Comparison],
    artifact: Path,
    parity: Callable[[], Parity | None] = lambda: None,
) -> Verdict:
    """Publishes the last stage's result, where the recipe says so, every check is met, and an engine computes what was
    trained. parity: finds that out; asked of what would be published alone."""
    made = tuple(check for spec, one in zip(recipe.evaluate, compared, strict=True) for check in _checks(spec, one))
    missed = [str(check) for check in made if not check.is_met]
    if missed:
        kept = f"{'nothing is published, and ' if recipe.publish else ''}the result is kept in {artifact}"
        return Verdict(made, why_not=GateFailed(f"the gate is shut: {'; '.join(missed)}; {kept}"))
    if recipe.publish is None:
        return Verdict(made)
    registry, found = recipe.resolve(recipe.publish.registry), None
    try:
        found = parity()
        if found is not None and not found.is_met:
            told = f"nothing is published: {found.why_not}; the result is kept in {artifact}"
            return Verdict(made, why_not=GateFailed(told), parity=found)
        version = publish(artifact, registry=registry, name=_name(recipe), alias=recipe.publish.alias)
    except Interrupted:
        raise
    except FettleError as error:
        return Verdict(made, why_not=error, parity=found)
    except OSError as error:
        why_not = FettleError(f"{artifact} could not be published in {registry}: {error}")
        return Verdict(made, why_not=why_not, parity=found)
    return Verdict(made, version.id, parity=found)


def _checks(spec: EvaluateSpec, one: Comparison) -> Iterator[Check]:
    data = one.after.data
    before, after = ({name: told["mean"] for name, told in side.scores.items()} for side in (one.before, one.after))
    if isinstance(spec, RetentionSpec):
        if spec.budget is not None:
            yield Check(data, "forgetting", False, after["forgetting"], most=spec.budget, is_loss=True)
        return
    falling = tuple(after) if isinstance(spec, LossSpec) else getattr(one.after, "falling", ())
    for score, most in _bounds(spec, "at_most"):
        yield Check(data, score, False, after[score], most=most, is_loss=True)
    for score, least in _bounds(spec, "at_least"):
        yield Check(data, score, False, after[score], least)
    than = "the base" if one.before.model == "base" else one.before.model
    for score, least in _bounds(spec, "gain"):
        gained = before[score] - after[score] if score in falling else after[score] - before[score]
        yield Check(data, score, True, gained, least, is_loss=score in falling, than=than)


def _bounds(spec: EvaluateSpec, key: str) -> list[tuple[str, float]]:
    """Score and bound; none of a spec without such a key."""
    return list(getattr(spec, key, {}).items())


def check_publishable(recipe: Recipe, stages: Sequence[Planned]) -> None:
    """Raises UserError, before anything is trained, for a result that no endpoint would take from a registry."""
    if recipe.publish is None:
        return
    last, where = stages[-1], recipe.where("publish")
    result = last.result()
    registry, name = FolderRegistry(recipe.resolve(recipe.publish.registry)), _name(recipe)
    if registry.root.exists() and not registry.root.is_dir():
        raise UserError(f"{registry.root} is not a folder", **recipe.where("publish.registry"))
    if result.adapter is not None:
        kind = result.adapter_spec.kind if result.adapter_spec is not None else "lora"
        is_causal = last.spec.kind in YIELDS_MODEL and family_of(result.root) == "causal"
        if kind != "lora" or not is_causal:
            what = f"adapters of kind {kind}" if kind != "lora" else "adapters over this kind of model"
            raise UserError(
                f"the last stage yields an adapter, and endpoints take no {what} from a registry",
                **where,
                expected="a LoRA adapter over a causal language model, or full weights",
                fix="add a last stage {name: merged, kind: merge}, whose full weights are published",
            )
    there, ours = registry.kind(name), "model" if result.adapter is None else "adapter"
    if there not in (None, ours):
        raise UserError(
            f"'{name}' is a published {there} in {registry.root}, and the last stage yields a{_n(ours)} {ours}",
            **where,
            fix="publish it under another name",
        )


def _name(recipe: Recipe) -> str:
    assert recipe.publish is not None
    return recipe.publish.name or recipe.name


def _n(kind: str) -> str:
    return "n" if kind == "adapter" else ""
