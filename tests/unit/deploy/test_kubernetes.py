"""jobs/rayjob.yaml, serve/rayservice.yaml and the container file: as KubeRay and Ray Serve take them."""

from __future__ import annotations

import copy
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from ray.serve.schema import ServeDeploySchema

from fettle.cli.job import with_home

ROOT = Path(__file__).parents[3]
SCHEMA = Draft202012Validator(yaml.safe_load(Path(__file__).with_name("kuberay.yaml").read_text()))
FILES = ("jobs/rayjob.yaml", "serve/rayservice.yaml")
PROJECT = (ROOT / "pyproject.toml").read_text()


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / name).read_text())


def cluster_of(name: str) -> dict[str, Any]:
    spec = read(name)["spec"]
    return spec.get("rayClusterSpec") or spec["rayClusterConfig"]


def pods_of(name: str) -> list[dict[str, Any]]:
    cluster = cluster_of(name)
    return [one["template"]["spec"] for one in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]


@pytest.mark.parametrize("name", FILES)
def test_the_file_has_kuberays_keys_and_no_others(name: str):
    assert [error.message for error in SCHEMA.iter_errors(read(name))] == []


@pytest.mark.parametrize("key", ["authOption", "colour"])
def test_a_slip_would_be_seen(key: str):
    told = copy.deepcopy(read(FILES[0]))
    told["spec"]["rayClusterSpec"][key] = {"mode": "token"}

    assert not SCHEMA.is_valid(told)


@pytest.mark.parametrize("name", FILES)
def test_ray_asks_for_a_token_and_has_the_pinned_version(name: str):
    cluster = cluster_of(name)

    assert cluster["authOptions"] == {"mode": "token"}
    assert f'"ray[default,serve,train,tune]=={cluster["rayVersion"]}"' in PROJECT


@pytest.mark.parametrize("name", FILES)
def test_pods_run_as_nobodys_root_and_mount_what_they_name(name: str):
    for pod in pods_of(name):
        (container,) = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert {one["name"] for one in container["volumeMounts"]} == {one["name"] for one in pod["volumes"]}
        assert {"/shared", "/dev/shm"} <= {one["mountPath"] for one in container["volumeMounts"]}
        assert container["resources"]["requests"] == container["resources"]["limits"]


@pytest.mark.parametrize("name", FILES)
def test_the_image_is_ours_at_this_version(name: str):
    version = re.search(r'^version = "(.+)"', PROJECT, re.MULTILINE)[1]
    for pod in pods_of(name):
        image = pod["containers"][0]["image"]
        is_gpu = "nvidia.com/gpu" in pod["containers"][0]["resources"]["limits"]
        assert image == f"fettle:{version}-{'gpu' if is_gpu else 'cpu'}"


def test_the_jobs_line_is_one_that_fettle_takes():
    words = shlex.split(read(FILES[0])["spec"]["entrypoint"])

    assert words[:4] == ["python", "-m", "fettle.cli.job", "run"]
    assert with_home(words) == words  # an absolute --out, on the volume
    assert words[words.index("--out") + 1].startswith("/shared/")


def test_the_operators_own_rules_for_a_job_hold():
    spec = read(FILES[0])["spec"]

    assert spec["ttlSecondsAfterFinished"] == 0 or spec["shutdownAfterJobFinishes"]
    assert yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"] == {"RAY_JOB_STOP_WAIT_TIME_S": "180"}


def test_the_services_configuration_is_serves_and_the_same_as_the_clusters_own():
    told, own = yaml.safe_load(read(FILES[1])["spec"]["serveConfigV2"]), read("serve/config.yaml")
    ServeDeploySchema.model_validate(told)
    assert told["http_options"].pop("host") == "0.0.0.0" and told["applications"][0]["args"].pop("keys")
    assert own["http_options"].pop("host") == "127.0.0.1"

    assert told == own


def test_keys_lie_where_the_service_looks_for_them():
    told = yaml.safe_load(read(FILES[1])["spec"]["serveConfigV2"])
    file = Path(told["applications"][0]["args"]["keys"])

    for pod in pods_of(FILES[1]):
        (mount,) = [one for one in pod["containers"][0]["volumeMounts"] if one["name"] == "keys"]
        assert mount["mountPath"] == str(file.parent) and mount["readOnly"]


def test_the_container_is_plain_and_not_roots():
    text = (ROOT / "deploy" / "Containerfile").read_text()
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    words = [line.split() for line in lines if line and not line.startswith("#")]

    assert [one[1] for one in words if one[0] == "FROM"] == ["python:3.11-slim-bookworm"]  # no host before it
    assert [one[1] for one in words if one[0] == "USER"] == ["1000"]
    assert ["ARG", "TARGET=cpu"] in words
    copied = [path for one in words if one[0] == "COPY" for path in one[2:-1]]
    assert [path for path in copied if not (ROOT / path).exists()] == []
    assert {"requirements", "platform", "pyproject.toml"} <= set(copied)


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_what_the_container_installs_has_the_pinned_ray(target: str):
    installed = re.search(r"^ray==(\S+)", (ROOT / "requirements" / f"{target}.txt").read_text(), re.MULTILINE)

    assert {cluster_of(name)["rayVersion"] for name in FILES} == {installed[1]}
