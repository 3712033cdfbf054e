"""`fettle publish | promote | rollback | adapters`, as an operator types them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from bundled_adapter import write_bundled_adapter
from typer.testing import CliRunner

from fettle.cli.main import app
from fettle.errors import UserError
from fettle.models.base import BUNDLED

MakeAdapter = Callable[..., Path]


@pytest.fixture
def make_adapter(tmp_path: Path) -> MakeAdapter:
    """`make_adapter(name)`: an adapter's artifact over the bundled model, of weights that differ by name."""

    def make(name: str, **config: object) -> Path:
        return write_bundled_adapter(tmp_path / name, "support", **config)

    return make


@pytest.fixture
def said(tmp_path: Path) -> Callable[..., str]:
    """`said("promote", "support")`: what a command prints, of the registry in the test's folder."""

    def run(*words: object) -> str:
        done = CliRunner().invoke(app, [*map(str, words)], env={"FETTLE_REGISTRY": str(tmp_path / "registry")})
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.output

    return run


def test_an_adapter_on_its_way_into_production_and_back(make_adapter: MakeAdapter, said: Callable[..., str]) -> None:
    assert "nothing is published" in said("adapters")

    first = said("publish", make_adapter("one"))
    assert first.startswith("support:1 is support@candidate (")
    assert "fettle promote support@candidate" in first
    assert said("promote", "support@candidate") == "support@production is support:1\n"

    said("publish", make_adapter("second"))
    assert said("promote", "support") == "support@production is support:2, was support:1\n"
    assert said("rollback", "support") == "support@production is support:1 again, was support:2\n"
    assert said("promote", "support:2", "--alias", "trial") == "support@trial is support:2\n"

    head, *rows = said("adapters").splitlines()
    assert head.split() == ["version", "kind", "aliases", "size", "published", "digest"]
    assert [row.split()[0] for row in rows] == ["support:1", "support:2"]
    assert "production" in rows[0] and "candidate, trial" in rows[1]


def test_a_full_model_has_versions_too(said: Callable[..., str]) -> None:
    assert said("publish", BUNDLED["tiny"], "--name", "merged").startswith("merged:1 is merged@candidate (")
    assert said("promote", "merged") == "merged@production is merged:1\n"
    assert said("adapters").splitlines()[1].split()[:4] == ["merged:1", "model", "candidate,", "production"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("promote", "support"), "nothing called 'support' is published"),
        (("promote", "../x"), "names nothing that is published"),
        (("rollback", "support"), "nothing called 'support' is published"),
        (("rollback", "support:1"), "is no name for what is published"),
        (("publish", "/nowhere/at/all"), "nowhere"),
    ],
)
def test_a_mistake_is_one_clear_error(said: Callable[..., str], words: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        said(*words)


def test_what_an_endpoint_would_refuse_is_not_published(
    make_adapter: MakeAdapter, said: Callable[..., str], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="vLLM does not apply DoRA"):
        said("publish", make_adapter("dora", use_dora=True))
    shutil.copytree(BUNDLED["tiny"], tmp_path / "own-code")
    config = json.loads((tmp_path / "own-code" / "config.json").read_text())
    (tmp_path / "own-code" / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "code.Model"}}))
    with pytest.raises(UserError, match="code"):
        said("publish", tmp_path / "own-code")
    with pytest.raises(UserError, match="a full model goes over no other"):
        said("publish", BUNDLED["tiny"], "--base", "tiny")
    assert not (tmp_path / "registry").exists()
