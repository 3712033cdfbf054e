"""`publish`: where the last stage's result goes once the run's checks are met."""

from pydantic import Field

from fettle.recipe.spec import Spec


class PublishSpec(Spec):
    """The last stage's result as the next version of a name in a registry: an adapter, or full weights."""

    registry: str
    """The registry's folder, as `fettle serve --registry` has it."""
    name: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """What it is called there; by default the recipe's name."""
    alias: str = Field("candidate", pattern=r"^[a-z][a-z0-9_-]{0,31}$")
    """The name that points at it from then on: `candidate`, or `production` at once."""
