"""`data`, `heldout`, `replay`: where records come from and in what proportion."""

from typing import Literal

from pydantic import Field, model_validator

from fettle.recipe.spec import Spec


class DataSpec(Spec):
    """One source of records."""

    path: str
    """A file, a glob or a folder, relative to the recipe's file."""
    weight: float = Field(1.0, gt=0)
    """Share of the tokens relative to the stage's other sources."""
    split: Literal["document", "lines"] = "document"
    """A .txt file is one document, or (`lines`) one document a line."""


class HeldoutSpec(Spec):
    """Records kept out of training on which the loss is measured before and after: a file of their own, or a share."""

    data: str | None = None
    """A file, a glob or a folder of held-out records."""
    fraction: float | None = Field(None, gt=0, lt=1)
    """Share of the stage's records, chosen by each record's hash (so never dependent on the order)."""
    max: int = Field(200, ge=1)
    """With `fraction`: at most so many records."""

    @model_validator(mode="after")
    def _one_of_two(self) -> "HeldoutSpec":
        if (self.data is None) == (self.fraction is None):
            raise ValueError("give either data: FILE or fraction: SHARE")
        if self.data is not None and "max" in self.model_fields_set:
            raise ValueError("max goes with fraction; a file is taken whole")
        return self


class ReplaySpec(Spec):
    """Earlier or general data mixed into the stage against forgetting."""

    data: str
    """A file, a glob or a folder."""
    fraction: float = Field(gt=0, lt=1)
    """Share of the stage's tokens."""
