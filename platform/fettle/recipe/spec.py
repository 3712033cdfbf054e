"""The base of every spec: frozen, no unknown keys, no silent conversions."""

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict


class Spec(BaseModel):
    """One part of a recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)


def as_kind(value: object) -> object:
    """`optimizer: sgd` is as good as `optimizer: {kind: sgd}`."""
    return {"kind": value} if isinstance(value, str) else value


def with_defaults(value: Any, kind: str, defaults: Mapping[str, Mapping[str, Any]]) -> Any:
    """A spec's keys over the defaults of its kind, which is `kind` where it names none."""
    if not isinstance(value, dict):
        return value
    return {**defaults.get(str(value.get("kind", kind)), {}), **value}


def check_keys(spec: Any, keys: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises ValueError where a key is given that the spec's kind has no use for. keys: those of each kind."""
    for key in dict.fromkeys(key for known in keys.values() for key in known):
        if getattr(spec, key) is not None and key not in keys[spec.kind]:
            kinds = ", ".join(kind for kind, known in keys.items() if key in known)
            raise ValueError(f"{key} has no effect with {spec.kind}; it belongs to {kinds}")


def check_bounds(spec: Any, keys: Iterable[str], measured: Iterable[str]) -> None:
    """Raises ValueError where one of the keys bounds a score that is none of `measured`."""
    for key in keys:
        for score in getattr(spec, key):
            if score not in measured:
                raise ValueError(f"{key}: no score '{score}' is measured here; there is {', '.join(measured)}")
