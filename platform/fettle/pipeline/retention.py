"""Forgetting: a probe set's loss on the base a run began from, and after every stage that yields a language model.

The drop on earlier abilities after learning later ones: Lopez-Paz & Ranzato 2017, "Gradient Episodic Memory"
(arXiv:1706.08840, section 2, backward transfer), here of one fixed probe set, in nats a token, and with the sign turned
round.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fettle.data.sources import OpenSource
from fettle.errors import UserError
from fettle.models.family import family_of
from fettle.pipeline.evaluated import Measurement, Retained, Retention
from fettle.pipeline.origin import Origin
from fettle.pipeline.perplexity import Losses, Probe, base_of, kept_losses, measurement, probe, room_of
from fettle.pipeline.planned import Planned
from fettle.recipe.evaluate import RetentionSpec
from fettle.recipe.kinds import YIELDS_MODEL

_Language = tuple[Path, str | None]  # model and chat template, which decide a record's tokens


@dataclass(frozen=True)
class _Named:
    """A model of the run: what the report calls it, where it lies."""

    name: str
    origin: Origin


def check_retention(stages: Sequence[Planned], source: OpenSource, spec: RetentionSpec, **where: Any) -> None:
    """Raises UserError, before anything is trained, where the probe set or the stages give nothing to measure."""
    measured = _measured(stages)
    if not measured:
        raise UserError(
            "no stage yields a language model, whose loss could be measured",
            **where,
            expected=f"a stage of kind {', '.join(YIELDS_MODEL)}, of a causal or encoder-decoder model",
        )
    _probes(measured, source, spec, **where)


def retention(
    stages: Sequence[Planned],
    source: OpenSource,
    spec: RetentionSpec,
    out: Path,
    say: Callable[[str], None],
    seed: int = 0,
    **where: Any,
) -> Retention:
    """What the stages' language models have kept of what their bases could do; each loss, once it was worked out for a
    model, is taken as it is. Below `out` lies every record's."""
    from fettle.evaluate.intervals import Score, of_ratio

    measured = _measured(stages)
    asked = _probes(measured, source, spec, **where)
    seen = dict[tuple[_Language, str], Losses]()

    def found(model: _Named) -> Losses:
        of = _language(model.origin)
        if (of, model.origin.identity) not in seen:
            losses = kept_losses(out / "evaluations", model.origin, asked[of], model.name, say)
            seen[of, model.origin.identity] = losses
        return seen[of, model.origin.identity]

    def above(model: _Named, other: _Named) -> Score:
        return of_ratio(found(model).sums - found(other).sums, found(model).tokens, seed)

    def told(model: _Named, base: _Named) -> Measurement:
        one = measurement(found(model), asked[_language(model.origin)], model.name, seed)
        return replace(one, scores=one.scores | {"forgetting": asdict(above(model, base))}, kind="retention")

    lines = _lines(measured)
    for model in (model for line in lines for model in line):
        found(model)  # what comes first is measured first
    rows = tuple(
        Retained(
            stage=result.name,
            base=base.name,
            parent=parent.name,
            loss=(scores := told(result, base).scores)["loss"],
            forgetting=scores["forgetting"],
            added=asdict(above(result, parent)),
        )
        for base, parent, result in lines
    )
    base, _, last = lines[-1]
    worst = max(rows, key=lambda row: row.added["mean"])  # the first of equals
    return Retention(told(base, base), told(last, base), rows, worst.stage, spec.budget)


def _measured(stages: Sequence[Planned]) -> list[Planned]:
    """Stages that yield a language model with a loss over tokens; encoders predict hidden ones."""
    return [one for one in stages if one.spec.kind in YIELDS_MODEL and family_of(one.origin.root) != "masked"]


def _language(origin: Origin) -> _Language:
    return origin.root, origin.chat_template


def _probes(
    measured: Sequence[Planned], source: OpenSource, spec: RetentionSpec, **where: Any
) -> dict[_Language, Probe]:
    """The same tokens for all stages over the same model: as long as the one with the least room can read."""
    found = dict[_Language, Probe]()
    for of in dict.fromkeys(_language(stage.origin) for stage in measured):
        alike = [stage for stage in measured if _language(stage.origin) == of]
        room = min(room_of(one) for stage in alike for one in (stage.origin, stage.result()))
        found[of] = probe(source, spec, *of, room, **where)
    return found


def _lines(measured: Sequence[Planned]) -> list[tuple[_Named, _Named, _Named]]:
    """Of each stage the untuned model, what it began from, and its result."""
    roots = list(dict.fromkeys(_language(stage.origin) for stage in measured))
    bases = {of: base_of(next(one.origin for one in measured if _language(one.origin) == of)) for of in roots}
    lines = []
    for stage in measured:
        origin, untuned = stage.origin, bases[_language(stage.origin)]
        base = _Named("base" if len(roots) == 1 else f"base-{origin.root.name}", untuned)
        earlier = [one for one in measured if one.result().identity == origin.identity]
        if origin.adapter is None and origin.base == origin.root:
            parent = base
        else:
            parent = _Named(earlier[0].spec.name if earlier else (origin.adapter or origin.base).name, origin)
        lines.append((base, parent, _Named(stage.spec.name, stage.result())))
    return lines
