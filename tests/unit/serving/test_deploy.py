"""What `serve deploy` is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from fettle.errors import UserError
from fettle.serving.deploy import app

CONFIG = yaml.safe_load((Path(__file__).parents[3] / "serve" / "config.yaml").read_text(encoding="utf-8"))


def test_shipped_config_builds_the_shipped_model() -> None:
    application = CONFIG["applications"][0]

    assert application["import_path"] == "fettle.serving.deploy:app"
    ingress = app(application["args"])._bound_deployment
    model = ingress.init_args[0]._bound_deployment
    assert [model.name, ingress.name] == [one["name"] for one in application["deployments"]]


def test_shipped_config_listens_to_this_machine_only() -> None:
    assert CONFIG["http_options"]["host"] == "127.0.0.1"


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        ({}, "args.model: Field required"),
        ({"model": "tiny", "adaptors": {}}, "did you mean 'adapters'"),
        ({"model": "tiny", "adapters": "x"}, "args.adapters"),
        ({"model": "/nowhere"}, "no model"),
    ],
)
def test_wrong_arguments_are_told(args: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError) as caught:
        app(args)

    assert reason in str(caught.value)
