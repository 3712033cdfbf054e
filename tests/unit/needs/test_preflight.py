"""What is refused before anything starts: more CPUs or disk than there are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from fettle.errors import DoesNotFit
from fettle.needs.preflight import check_cpus, check_disk
from fettle.recipe import Recipe, load_recipe

GIB = 1 << 30
LoadOne = Callable[[str, str], Recipe]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`machine(cpus, free_gib)`: what there is."""

    def machine(cpus: int = 2, free_gib: float = 100) -> None:
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        monkeypatch.setattr("os.cpu_count", lambda: cpus)
        monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=int(free_gib * GIB)))

    return machine


def recipe(folder: Path, top: str = "{}", own: str = "null") -> Recipe:
    file = folder / "recipe.yaml"
    file.write_text(
        f"name: a\ncluster: {top}\nstages:\n  - name: task\n    kind: sft\n    data: x\n    cluster: {own}\n"
    )
    return load_recipe(file)


def told(recipe: Recipe) -> str:
    with pytest.raises(DoesNotFit) as found:
        check_cpus(recipe, recipe.stages[0], recipe.stages[0].cluster or recipe.cluster)
    return str(found.value).replace(f"{recipe.file.parent}/", "")


def weights(folder: Path, size: int) -> Path:
    """A model's folder whose weights say they have this size, without taking it."""
    folder.mkdir()
    with open(folder / "model.safetensors", "wb") as file:
        file.truncate(size)
    (folder / "other.bin").write_bytes(b"0" * 10)
    return folder


def test_as_many_workers_as_cpus_fit(tmp_path, machine):
    machine(cpus=4)
    one = recipe(tmp_path, "{workers: 2, cpus_per_worker: 2}")
    check_cpus(one, one.stages[0], one.cluster)


def test_more_workers_than_cpus_are_told_with_line_and_how_many_fit(tmp_path, machine):
    machine(cpus=4)
    assert told(recipe(tmp_path, "{workers: 3, cpus_per_worker: 2}")) == (
        "recipe.yaml:2: cluster.workers: 3 workers of 2 CPU(s) are more than this machine's 4 CPUs\n"
        "  fix: at most workers: 2, or set RAY_ADDRESS to a larger cluster"
    )


def test_a_stages_own_workers_are_told_at_the_stage(tmp_path, machine):
    machine(cpus=2)
    assert told(recipe(tmp_path, own="{workers: 3}")).startswith(
        "recipe.yaml:7: stages.task.cluster.workers: 3 workers"
    )


def test_one_worker_that_is_too_large_is_told_to_take_fewer_cpus(tmp_path, machine):
    machine(cpus=4)
    message = told(recipe(tmp_path, "{cpus_per_worker: 8}"))
    assert message.startswith("recipe.yaml:2: cluster.cpus_per_worker: 1 workers of 8 CPU(s) are more than")
    assert "fix: at most cpus_per_worker: 4, or set" in message


def test_a_cluster_that_is_joined_is_asked_later(tmp_path, machine, monkeypatch):
    machine(cpus=1)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    one = recipe(tmp_path, "{workers: 8}")
    check_cpus(one, one.stages[0], one.cluster)


def test_a_run_with_nothing_to_do_needs_no_disk(tmp_path, machine):
    machine(free_gib=0)
    check_disk(tmp_path, [])


def test_too_little_disk_is_told_with_what_is_needed_and_what_is_free(tmp_path, machine):
    machine(free_gib=1)
    base = weights(tmp_path / "base", GIB)
    with pytest.raises(DoesNotFit) as found:
        check_disk(tmp_path / "out", [(base, 2)])
    # Three checkpoints of six times 1 GiB, a quarter of a GiB to spare, and the artifact.
    assert str(found.value).startswith(f"--out: the run may need 19.2 GiB under {tmp_path / 'out'}, and 1.0 GiB are fr")


@pytest.mark.parametrize(
    ("keeps", "needed"),
    [
        ([1], 0.25 + 12 + 1),
        ([1, 1], 0.25 + 12 + 1 + 1),  # a stage's checkpoints go when its artifact is there
        ([1, 2], 0.25 + 18 + 1 + 1),
    ],
)
def test_it_fits_with_what_is_needed_and_not_with_less(tmp_path, machine, keeps, needed):
    base = weights(tmp_path / "base", GIB)
    machine(free_gib=needed + 1)
    check_disk(tmp_path, [(base, keep) for keep in keeps])
    machine(free_gib=needed - 1.1)
    with pytest.raises(DoesNotFit):
        check_disk(tmp_path, [(base, keep) for keep in keeps])


def test_the_disk_is_that_of_the_nearest_folder_that_is_there(tmp_path, machine, monkeypatch):
    asked: list[Path] = []
    machine()
    monkeypatch.setattr("shutil.disk_usage", lambda path: (asked.append(path), SimpleNamespace(free=GIB))[1])
    check_disk(tmp_path / "not" / "yet" / "there", [])
    assert asked == [tmp_path] and list(tmp_path.iterdir()) == []
