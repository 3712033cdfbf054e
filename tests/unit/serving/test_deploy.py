"""What `serve deploy` is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from fettle.errors import UserError
from fettle.serving.deploy import app
from fettle.serving.publish import publish

ROOT = Path(__file__).parents[3]
CONFIG = yaml.safe_load((ROOT / "serve" / "config.yaml").read_text(encoding="utf-8"))


def test_shipped_config_builds_the_shipped_model() -> None:
    application = CONFIG["applications"][0]

    assert application["import_path"] == "fettle.serving.deploy:app"
    ingress = app(application["args"])._bound_deployment
    model = ingress.init_args[0][0][0]._bound_deployment
    assert [model.name, ingress.name] == [one["name"] for one in application["deployments"]]


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").glob("serve-*.yaml")), ids=lambda one: one.stem)
def test_recipes_name_the_deployments_that_there_are(recipe: Path, tmp_path: Path) -> None:
    (told,) = yaml.safe_load(recipe.read_text(encoding="utf-8"))["applications"]
    args, here = told["args"], {"keys": str(tmp_path / "keys.json"), "registry": str(tmp_path)}
    args |= {key: value for key, value in here.items() if key in args}
    if "also" in args:
        publish("tiny", registry=tmp_path, name=args["model"], alias="production")
    ingress = app(args)._bound_deployment
    names = {ingress.name, *(one[0]._bound_deployment.name for one in ingress.init_args[0])}
    assert {one["name"] for one in told.get("deployments", [])} <= names


def test_a_model_of_a_registry_is_followed_with_its_own_options(tmp_path: Path) -> None:
    publish("tiny", registry=tmp_path, name="base", alias="production")
    args = {"model": "base", "registry": str(tmp_path), "also": ["candidate"], "deployment": {"num_replicas": 3}}
    engines, followed, keeper = app(args)._bound_deployment.init_args[:3]

    assert (engines, followed) == ([], [("base", tmp_path)])
    (one,) = keeper._bound_deployment.init_args[0]
    assert (one.aliases, one.deployment) == (("production", "candidate"), {"num_replicas": 3})


def test_shipped_config_listens_to_this_machine_only() -> None:
    assert CONFIG["http_options"]["host"] == "127.0.0.1"


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        ({}, "args.model: this key is missing"),
        ({"model": "tiny", "models": [{"model": "tiny"}]}, "model, or models, and not both"),
        ({"models": [{"modell": "tiny"}]}, "args.models.0.model"),
        (
            {"models": [{"model": "tiny", "registry": "a"}, {"model": "tiny", "registry": "a"}]},
            "two models have one registry",
        ),
        ({"models": [{"model": "tiny"}, {"model": "tiny"}]}, "two models are called tiny"),
        ({"model": "tiny", "adaptors": {}}, "did you mean 'adapters'"),
        ({"model": "tiny", "adapters": "x"}, "args.adapters"),
        ({"model": "/nowhere"}, "no model"),
    ],
)
def test_wrong_arguments_are_told(args: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError) as caught:
        app(args)

    assert reason in str(caught.value)


def test_several_models_have_engines_of_their_own() -> None:
    models = [{"model": "tiny"}, {"model": "tiny", "name": "other"}]
    bound = app({"models": models})._bound_deployment.init_args[0]
    assert [one[0]._bound_deployment.name for one in bound] == ["model-tiny", "model-other"]
    assert [one[1] for one in bound] == [("tiny",), ("other",)]
