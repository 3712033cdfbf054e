"""`fettle quantize`: one clear error for each mistake, before anything is loaded."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from fettle.artifact import read_artifact
from fettle.cli.main import app
from fettle.errors import UserError


def refused(*arguments: object) -> str:
    told = CliRunner().invoke(app, ["quantize", *(str(one) for one in arguments)])
    assert isinstance(told.exception, UserError) and told.exception.exit_code == 2
    return str(told.exception)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--bits", "3"], "--bits: input should be 8 or 4"),
        (["--group", "32"], "--group: group has no effect with bits: 8"),
        (["--bits", "4", "--group", "16"], "--group: input should be 32, 64 or 128"),
        (["--bits", "4"], "groups of 128 do not divide the 192 inputs"),
    ],
)
def test_settings_that_cannot_be_are_refused(tmp_path, options, message):
    assert message in refused("tiny", *options, "--out", tmp_path / "q")
    assert not (tmp_path / "q").exists()


def test_a_model_that_is_nowhere_is_told(tmp_path):
    assert refused(tmp_path / "no", "--out", tmp_path / "q").startswith(f"no model '{tmp_path / 'no'}'")


def test_an_out_folder_that_is_there_is_left_alone(tmp_path):
    assert refused("tiny", "--out", tmp_path).startswith(f"--out: {tmp_path} is there already")


def test_the_bundled_model_is_quantised_once_and_not_again(tmp_path):
    told = CliRunner().invoke(app, ["quantize", "tiny", "--bits", "4", "--group", "32", "--out", str(tmp_path / "q")])
    assert told.exit_code == 0 and "quantising tiny, 4 bits, groups of 32" in told.output
    assert read_artifact(tmp_path / "q", verify=True).quantized == {"bits": 4, "group": 32}
    assert "is quantised, for serving" in refused(tmp_path / "q", "--out", tmp_path / "again")
