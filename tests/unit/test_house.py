"""The rules of the house that a file can break without a test of its own noticing."""

from __future__ import annotations

import re
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

from fettle.recipe import load_recipe

ROOT = Path(__file__).parents[2]
RECIPES = sorted(file for file in (ROOT / "recipes").glob("*.yaml") if not file.name.startswith("serve-"))
FROM_THE_HUB = ("gsm8k-grpo.yaml", "rlhf-ppo.yaml")
# In parts, so that this file does not name them either.
REGISTRIES = ("py" + "pi.org", "python" + "hosted.org", "download.py" + "torch.org")


def tracked(*patterns: str) -> list[Path]:
    """Files of the repository, those included that are about to be added."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", "--", *patterns]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def test_no_python_file_is_longer_than_300_lines():
    lengths = {file.relative_to(ROOT): file.read_text(encoding="utf-8").count("\n") for file in tracked("*.py")}
    assert {name: length for name, length in lengths.items() if length > 300} == {}
    assert len(lengths) > 50


def test_the_folder_platform_is_no_package_that_hides_pythons_own():
    assert not (ROOT / "platform" / "__init__.py").exists()
    assert find_spec("platform").origin.endswith("platform.py")


def test_the_folders_that_ray_and_users_look_for_are_there():
    assert [name for name in ("serve", "jobs", "recipes") if not (ROOT / name).is_dir()] == []


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.name)
def test_a_shipped_recipe_parses_and_its_data_is_there(file):
    recipe = load_recipe(file)
    for stage in recipe.stages:
        for source in (*getattr(stage, "data", ()), *getattr(stage, "prompts", ())):  # a merge has none
            if file.name in FROM_THE_HUB:
                continue
            assert list(recipe.resolve(".").glob(source.path)), f"{stage.name}: {source.path}"


def test_recipes_are_shipped():
    assert {"demo.yaml", "smoke.yaml"} <= {file.name for file in RECIPES}


def test_no_file_names_a_package_registrys_host():
    named = [
        f"{file.relative_to(ROOT)}: {host}"
        for file in tracked()
        for host in REGISTRIES
        if host.encode() in file.read_bytes()
    ]
    assert named == []


def test_the_readmes_commands_are_the_makefiles():
    readme, makefile = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "Makefile"))
    fences = re.findall(r"^[ \t]*```.*?\n(.*?)^[ \t]*```", readme, re.DOTALL | re.MULTILINE)
    indented = re.findall(r"^    (\S.*)$", readme, re.MULTILINE)
    told = set(re.findall(r"\bmake ([a-z][\w-]*)", "\n".join([*fences, *indented])))
    targets = set(re.findall(r"^([a-z][\w-]*):", makefile, re.MULTILINE))
    assert told - targets == set()
    assert {"demo", "test"} <= told & targets


def test_no_two_test_files_have_one_name():
    names = [file.name for file in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))  # pytest would collect only one of them
