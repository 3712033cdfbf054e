"""What travels with a job."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from fettle.errors import DoesNotFit, UserError
from fettle.pipeline import shipped
from fettle.pipeline.shipped import files_of_recipe, files_of_words, pack
from fettle.recipe import load_recipe

LINE = '{"prompt": "a", "completion": "b"}\n'


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with recipes beside their data, which git does not keep; we are in it."""
    for name in ("data/a.jsonl", "data/b.jsonl", "recipes/rewards.py", "other/huge.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(LINE)
    (tmp_path / ".gitignore").write_text("data/\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def recipe(project: Path, text: str) -> list[str]:
    """Files that a recipe's stages bring, by their names below the project."""
    file = project / "recipes" / "r.yaml"
    file.write_text(f"name: r\n{text}")
    return sorted({str(one.relative_to(project)) for one in files_of_recipe(load_recipe(file))})


def test_a_recipes_data_travels_though_git_ignores_it(project):
    found = recipe(project, "stages: [{name: task, kind: sft, data: ../data/*.jsonl}]")

    assert found == ["data/a.jsonl", "data/b.jsonl", "recipes/r.yaml"]


def test_what_is_held_out_replayed_and_evaluated_travels_too(project):
    found = recipe(
        project,
        "stages:\n  - {name: task, kind: sft, data: ../data/a.jsonl, heldout: {data: ../other/huge.jsonl}}\n"
        "evaluate: [{kind: generate, data: ../data/b.jsonl}]\n",
    )

    assert found == ["data/a.jsonl", "data/b.jsonl", "other/huge.jsonl", "recipes/r.yaml"]


def test_functions_templates_and_folders_of_models_travel(project):
    (project / "base").mkdir()
    (project / "base" / "config.json").write_text("{}")
    (project / "recipes" / "chat.jinja").write_text("{{ messages }}")
    found = recipe(
        project,
        "base: ../base\nchat_template: chat.jinja\n"
        "stages:\n  - {name: align, kind: rl, iterations: 1, algorithm: {kind: grpo}, prompts: ../data/a.jsonl,\n"
        "     rewards: [{function: 'rewards.py:polite'}]}\n",
    )

    assert found == ["base/config.json", "data/a.jsonl", "recipes/chat.jinja", "recipes/r.yaml", "recipes/rewards.py"]


@pytest.mark.parametrize("path", ["/mnt/shared/a.jsonl", "s3://bucket/a.jsonl", "owner/name"])
def test_what_the_cluster_has_is_left_to_it(project, path):
    assert recipe(project, f"stages: [{{name: task, kind: sft, data: {path}}}]") == ["recipes/r.yaml"]


def test_data_that_is_not_here_is_told_at_its_line(project):
    with pytest.raises(UserError, match=r"r\.yaml:3: stages\.task\.data: .*no such file or folder \(did you mean"):
        recipe(project, "stages:\n  - {name: task, kind: sft, data: ../data/aa.jsonl}")


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("publish: {registry: registry}", "publish.registry"),
        ("storage: kept", "storage"),
        ("tracking: mine", "tracking"),
    ],
)
def test_results_that_would_go_with_the_job_are_refused(project, text, field):
    stages = "stages: [{name: task, kind: sft, data: ../data/a.jsonl}]\n"
    with pytest.raises(UserError, match=rf"{field}: .* goes when the job does\n"):
        recipe(project, stages + text)
    assert recipe(
        project,
        stages
        + text.replace("registry: registry", "registry: /shared/r")
        .replace("kept", "/k")
        .replace("mine", "http://t:5000"),
    )


def test_words_name_files_folders_globs_and_yaml(project):
    words = [
        "data/*.jsonl",
        "support=recipes",
        "{kind: judge, data: other/huge.jsonl, url: 'http://x'}",
        "--limit",
        "3",
    ]

    found = sorted({str(one.relative_to(project)) for one in files_of_words(words)})

    assert found == ["data/a.jsonl", "data/b.jsonl", "other/huge.jsonl", "recipes/rewards.py"]


def test_links_are_followed_but_not_in_circles(project):
    (project / "base").mkdir()
    (project / "base" / "self").symlink_to(project / "base")
    (project / "base" / "gone").symlink_to(project / "nowhere")
    (project / "base" / "data").symlink_to(project / "data")

    found = [str(one.relative_to(project)) for one in files_of_words(["base"])]

    assert found == ["base/data/a.jsonl", "base/data/b.jsonl"]


def test_the_package_is_laid_out_as_here_and_always_the_same(project):
    files = [project / "data" / "a.jsonl", project / "recipes" / "rewards.py"]

    first = pack(files, project / "recipes", project / "1.zip")
    pack(list(reversed(files)), project / "recipes", project / "2.zip")

    assert first == Path("recipes")
    assert (project / "1.zip").read_bytes() == (project / "2.zip").read_bytes()
    with zipfile.ZipFile(project / "1.zip") as packed:
        assert packed.namelist() == ["recipes/", "data/a.jsonl", "recipes/rewards.py"]
        assert packed.read("data/a.jsonl").decode() == LINE


def test_too_much_names_the_largest_and_the_way_out(project, monkeypatch):
    monkeypatch.setattr(shipped, "LIMIT", 1000)
    (project / "other" / "huge.jsonl").write_bytes(b"x" * (20 << 20))

    with pytest.raises(DoesNotFit, match=r"the largest: other/huge\.jsonl \(20 MiB\), data/a\.jsonl") as caught:
        pack([project / "other" / "huge.jsonl", project / "data" / "a.jsonl"], project, project / "1.zip")
    assert "absolute path" in caught.value.fix and not (project / "1.zip").exists()
