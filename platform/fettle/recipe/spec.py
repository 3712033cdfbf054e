"""The base of every spec: frozen, no unknown keys, no silent conversions."""

from pydantic import BaseModel, ConfigDict


class Spec(BaseModel):
    """One part of a recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)
