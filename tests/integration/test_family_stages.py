"""Every causal family through every kind of stage, two steps each: what is trained is what transformers makes of it."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from family_stages import LORA, MakeJob, heldout_of, loss_by_transformers, make_family_jobs, merge
from fettle.artifact import read_artifact
from fettle.train.job import StageJob
from gloo import losses, train_alone, train_together
from models_of import CAUSAL, write_model

pytestmark = pytest.mark.timeout(300)  # the first test waits for all that two workers train
# float32, sums in another order.
TOLERANCE = 2e-5

# Preferences share sft's forward pass, and reward models that of classifiers: those that are padded, and one Conv1D.
A_FEW = ("gpt2", "bloom", "falcon")

Adapter = Callable[[str], StageJob]


@pytest.fixture(scope="module", autouse=True)
def collected_once() -> Iterator[None]:
    """A stage collects garbage twice, and each time walks a million objects of imported libraries: half of its time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def make_job(root: Path, tmp_path_factory: pytest.TempPathFactory) -> MakeJob:
    return make_family_jobs(root, tmp_path_factory.mktemp("families"))


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {family: write_model(family, folder / family) for family in CAUSAL}


@pytest.fixture(scope="module")
def adapter_of(make_job: MakeJob, bases: dict[str, Path]) -> Adapter:
    """The stage that made a family's adapter, by sft."""
    return cache(lambda family: train_alone(make_job(bases[family], "sft", f"{family}-lora", adapter=LORA)))


@pytest.fixture(scope="module")
def together(make_job: MakeJob, bases: dict[str, Path]) -> dict[str, StageJob]:
    """The same on two workers, in one pair of processes."""
    jobs = {family: make_job(bases[family], "sft", f"{family}-two", adapter=LORA) for family in CAUSAL}
    train_together([(job, 0) for job in jobs.values()])
    return jobs


def heldout_loss(job: StageJob) -> float:
    return float(read_artifact(job.artifact).metrics["loss"]["heldout_after"])


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        *((family, kind) for family in CAUSAL for kind in ("sft", "classify")),
        *((family, "reward") for family in A_FEW),
    ],
)
def test_the_artifacts_loss_is_that_of_transformers(
    make_job: MakeJob, bases: dict[str, Path], family: str, kind: str
) -> None:
    job = train_alone(make_job(bases[family], kind, f"{family}-{kind}"))

    assert heldout_loss(job) == pytest.approx(loss_by_transformers(kind, job.artifact, heldout_of(job)), abs=TOLERANCE)


@pytest.mark.parametrize("family", CAUSAL)
def test_an_adapter_and_what_it_is_merged_into_are_the_same(adapter_of: Adapter, family: str) -> None:
    job = adapter_of(family)

    merged = loss_by_transformers("sft", merge(job), heldout_of(job))

    assert heldout_loss(job) == pytest.approx(merged, abs=TOLERANCE)
    assert merged != pytest.approx(loss_by_transformers("sft", job.base, heldout_of(job)), abs=1e-2)


@pytest.mark.parametrize("family", CAUSAL)
def test_rows_cut_and_packed_otherwise_leave_the_losses_alone(
    adapter_of: Adapter, make_job: MakeJob, family: str
) -> None:
    other = make_job(adapter_of(family).base, "sft", f"{family}-cut", adapter=LORA, accumulate=3, packing=False)

    assert losses(train_alone(other)) == pytest.approx(losses(adapter_of(family)), abs=TOLERANCE)


@pytest.mark.parametrize("family", CAUSAL)
def test_two_workers_have_the_losses_of_one(adapter_of: Adapter, together: dict[str, StageJob], family: str) -> None:
    assert losses(together[family]) == pytest.approx(losses(adapter_of(family)), abs=TOLERANCE)


@pytest.mark.parametrize("family", A_FEW)
def test_preferences_begin_where_policy_and_reference_are_equal(
    make_job: MakeJob, bases: dict[str, Path], family: str
) -> None:
    job = train_alone(make_job(bases[family], "preference", f"{family}-dpo", adapter=LORA))

    found = losses(job)
    assert found[0] == pytest.approx(0.693147, abs=1e-5)  # log 2
    assert found[1] < found[0]
