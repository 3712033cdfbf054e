"""What reading a recipe, and asking the command for help, does not load."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "ray", "vllm", "transformers", "deepspeed", "trl", "peft", "numpy", "datasets", "mlflow")


@pytest.mark.parametrize("module", ["fettle", "fettle.recipe", "fettle.cli.main"])
def test_the_light_modules_load_no_library_that_computes(module):
    program = f"import sys, {module}; print([name for name in {HEAVY} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "[]\n"


def test_help_is_answered_without_them():
    program = (
        "import sys\nfrom fettle.cli.main import main\nsys.argv = ['fettle', 'run', '--help']\n"
        f"try: main()\nexcept SystemExit: print([name for name in {HEAVY} if name in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout
    assert "--until" in printed and printed.endswith("[]\n")


@pytest.mark.parametrize("verb", ["run", "plan", "sweep"])
def test_a_slip_in_a_recipe_is_told_before_them(verb, tmp_path):
    (tmp_path / "slip.yaml").write_text("name: slip\nbases: tiny\n")
    program = (
        f"import sys\nfrom fettle.cli.main import main\nsys.argv = ['fettle', '{verb}', '{tmp_path / 'slip.yaml'}']\n"
        f"try: main()\nexcept SystemExit: print([name for name in {HEAVY} if name in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "bases" in ended.stderr and ended.stdout == "[]\n"


def test_what_drives_a_run_loads_nothing_that_trains():
    program = "import sys, fettle.pipeline.runner; print([name for name in ('peft', 'accelerate', 'deepspeed', 'vllm')"
    program += " if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "[]\n"
