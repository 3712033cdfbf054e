"""`data`, `heldout`, `replay`: where records come from, how they are read, and in what proportion."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from fettle.recipe.spec import Spec

FormatName = Literal[
    "text",
    "messages",
    "sharegpt",
    "alpaca",
    "prompt_completion",
    "query_response",
    "preference",
    "unpaired",
    "stepwise",
    "prompt",
    "classification",
]


class HubSpec(Spec):
    """Which part of a data set on the hub."""

    subset: str | None = None
    """Its configuration, where it has several."""
    split: str = "train"
    """Its split."""
    folder: str | None = None
    """Only this folder of it."""
    revision: str | None = None
    """A branch, tag or commit; by default the newest."""


class DataSpec(Spec):
    """One source of records."""

    path: str = Field(min_length=1)
    """A file, a glob or a folder, relative to the recipe's file; `dataset_info.json#NAME` (LLaMA-Factory's registry);
    an address such as `s3://bucket/file.jsonl`; or a data set's hub id."""
    weight: float = Field(1.0, gt=0)
    """Share of the tokens relative to the stage's other sources."""
    split: Literal["document", "lines"] = "document"
    """A .txt file is one document, or (`lines`) one document a line."""
    format: FormatName | None = None
    """The records' format, where it cannot be told from their columns."""
    columns: dict[str, str] = Field(default_factory=dict)
    """The format's column → the file's, where they differ: `{prompt: question, completion: reply}`."""
    roles: dict[str, str] = Field(default_factory=dict)
    """Role → the file's word for it, where it is an unusual one: `{user: Customer, assistant: Agent}`."""
    encoding: str = "utf-8"
    """Of text files, by its Python name: `latin-1`, `utf-16`."""
    on_bad_record: Literal["error", "skip"] = "error"
    """`skip` leaves bad records out and writes down which."""
    limit: int | None = Field(None, ge=1)
    """Only the first so many records."""
    licence: str | None = Field(None, min_length=1, max_length=100)
    """Under which it may be used, where no README.md beside it says so: `cc-by-4.0`. It is told of what learns from it,
    and changes nothing else."""
    hub: HubSpec = HubSpec()
    """Of a hub id: which part."""

    @field_validator("encoding")
    @classmethod
    def _is_known(cls, name: str) -> str:
        try:
            "a".encode(name)
        except (LookupError, ValueError):
            raise ValueError(f"no text encoding is called {name!r}; utf-8, utf-16, latin-1, cp1252 are some") from None
        return name


def as_source(value: object) -> object:
    """A bare path stands for `{path: …}`."""
    return {"path": value} if isinstance(value, str) else value


def _unweighted(spec: DataSpec) -> DataSpec:
    if "weight" in spec.model_fields_set:
        raise ValueError("weight has no effect here: it shares a stage's tokens out over the sources of its `data`")
    return spec


Source = Annotated[DataSpec, BeforeValidator(as_source), AfterValidator(_unweighted)]


class HeldoutSpec(Spec):
    """Records kept out of training on which the loss is measured before and after: a file of their own, or a share."""

    data: Source | None = None
    """A source of held-out records."""
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


FRACTIONS = (0.05, 0.1, 0.2, 0.4)
"""What `fraction: auto` tries."""


class ReplaySpec(Spec):
    """Earlier or general data mixed into the stage against forgetting."""

    data: Source
    """A source of records, or the name of an earlier stage, whose data is meant."""
    fraction: Annotated[float, Field(gt=0, lt=1)] | Literal["auto"]
    """Share of the stage's tokens. `auto`: the smallest of 5, 10, 20 and 40 % with which the stage stays within the
    `budget` of the recipe's `retention`; it is trained with one after the other until then."""
