"""`infra/compose.yaml` against the compose schema, and against what `make services` starts.

It has not been run: that takes a Docker daemon. With Docker's client, `docker compose config`
reads it as well.
"""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import check_jsonschema
import jsonschema
import pytest
from ruamel.yaml import YAML

from infra.services.programs import command, secret_environment
from infra.services.settings import (
    BUCKETS,
    DATABASE_PASSWORD,
    DATABASES,
    LISTENING,
    MLFLOW_SECRET_KEY,
    SERVICES,
    Settings,
)

COMPOSE_PATH = Path(__file__).parents[2] / "infra/compose.yaml"
SCHEMAS = Path(check_jsonschema.__file__).parent / "builtin_schemas/vendor"
TEXT = COMPOSE_PATH.read_text()
# What the schema takes instead of the variables that compose puts in.
SECRETS = {
    "VIVERO_POSTGRES_PASSWORD": "of the database",
    "AWS_ACCESS_KEY_ID": "name",
    "AWS_SECRET_ACCESS_KEY": "key",
    "MLFLOW_TRACKING_PASSWORD": "of mlflow",
    "MLFLOW_FLASK_SERVER_SECRET_KEY": "of its sessions",
    "PREFECT_PASSWORD": "of prefect",
    "VIVERO_REPOSITORY": "https://git.example.org/vivero.git",
    "VIVERO_SIGNING_KEY_FILE": "/etc/vivero/signing_key.pem",
}


def document() -> dict[str, Any]:
    loaded: dict[str, Any] = YAML(typ="safe").load(TEXT)
    return loaded


def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = document()["services"]
    return found


def validator() -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(json.loads((SCHEMAS / "compose-spec.json").read_text()))


def test_the_file_is_what_compose_takes():
    assert [error.message for error in validator().iter_errors(document())] == []


@pytest.mark.parametrize(
    ("service", "key", "value"),
    [("s3", "imagee", "x"), ("mlflow", "ports", "15402"), ("worker", "depends_on", 3)],
)
def test_the_schema_sees_a_mistake(service: str, key: str, value: object):
    broken = document()
    broken["services"][service][key] = value
    assert list(validator().iter_errors(broken))


@pytest.mark.skipif(shutil.which("docker") is None, reason="no Docker client here")
def test_docker_reads_the_file_and_refuses_to_go_without_secrets():
    command = ["docker", "compose", "--file", str(COMPOSE_PATH), "config", "--format", "json"]
    bare = {"PATH": os.environ["PATH"], "HOME": "/"}
    if subprocess.run(["docker", "compose", "version"], env=bare, capture_output=True).returncode:
        pytest.skip("no compose plugin of Docker here")
    read = subprocess.run(command, env={**bare, **SECRETS}, capture_output=True, text=True)
    assert read.returncode == 0, read.stderr
    assert json.loads(read.stdout)["services"].keys() == services().keys()
    refused = subprocess.run(command, env=bare, capture_output=True, text=True)
    assert refused.returncode != 0
    assert "required variable" in refused.stderr


def test_it_starts_what_make_services_starts():
    assert set(services()) >= set(SERVICES)
    on_one_machine = Settings(Path(), Path())
    for name in LISTENING:
        (published,) = services()[name]["ports"]
        assert published.startswith(f"127.0.0.1:{on_one_machine.port(name)}:")
    assert all(bucket in services()["buckets"]["command"][-1] for bucket in BUCKETS)
    made = {services()["postgres"]["environment"]["POSTGRES_DB"]}
    made |= set(re.findall(r"CREATE DATABASE (\w+)", document()["configs"]["databases"]["content"]))
    assert made == set(DATABASES)


def test_every_image_has_a_version():
    for service in services().values():
        name, _, version = service["image"].rpartition(":")
        assert name
        assert re.search(r"\d+\.\d+|\d{4}-\d{2}-\d{2}", version)


def test_no_secret_has_a_default():
    named = re.findall(r"\$\{(\w+)([^}]*)\}", TEXT)
    assert {name for name, _ in named} == set(SECRETS)
    assert {rest for _, rest in named} == {":?"}
    example = COMPOSE_PATH.with_name("compose.env.example").read_text()
    assert sorted(re.findall(r"^(\w+)=(.*)$", example, re.MULTILINE)) == sorted(
        (name, "") for name in SECRETS
    )


def given(service: str) -> dict[str, str]:
    """What `make services` tells a service."""
    names = (
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "MLFLOW_TRACKING_USERNAME",
        "MLFLOW_TRACKING_PASSWORD",
        "PREFECT_API_AUTH_STRING",
        "PREFECT_API_URL",
        "PREFECT_HOME",
        DATABASE_PASSWORD,
        MLFLOW_SECRET_KEY,
    )
    return secret_environment(Settings(Path(), Path()), service, dict.fromkeys(names, "x"))


def test_mlflow_and_prefect_ask_for_the_same_as_on_one_machine():
    """Each variable that makes a server ask for a password, here as there."""
    for service, word in (("mlflow", "AUTH"), ("mlflow", "SECRET_KEY"), ("prefect", "AUTH_STRING")):
        asked = {name for name in given(service) if word in name}
        assert asked
        assert services()[service]["environment"].keys() >= asked
    assert "--app-name=basic-auth" in services()["mlflow"]["command"]
    assert "basic-auth" in command(Settings(Path(), Path()), "mlflow")
    for client in ("worker", "deploy"):
        assert (
            "${PREFECT_PASSWORD:?}" in services()[client]["environment"]["PREFECT_API_AUTH_STRING"]
        )
    assert services()["worker"]["environment"]["MLFLOW_TRACKING_PASSWORD"]
    assert "default_permission = NO_PERMISSIONS" in document()["configs"]["mlflow_auth"]["content"]


def test_a_restart_of_prefect_leaves_no_slot_taken():
    """Its leases lie on a volume, as those of `make services` lie in its folder."""
    here = given("prefect")
    prefect = services()["prefect"]
    lease_storage = "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"
    assert prefect["environment"][lease_storage] == here[lease_storage]
    asked_by_clients = {"PREFECT_API_URL"}
    assert prefect["environment"].keys() >= here.keys() - asked_by_clients
    [mount] = prefect["volumes"]
    volume, _, home = mount.partition(":")
    assert home == prefect["environment"]["PREFECT_HOME"]
    assert volume in document()["volumes"]
    assert {"workspace:/workspace", mount} == set(services()["permissions"]["volumes"])
    assert home in services()["permissions"]["command"]


def test_only_the_worker_is_given_the_key_that_signs():
    given = [name for name, service in services().items() if "secrets" in service]
    assert given == ["worker"]
    assert services()["worker"]["secrets"] == list(document()["secrets"])
    [name] = document()["secrets"]
    assert services()["worker"]["environment"]["VIVERO_SIGNING_KEY"] == f"/run/secrets/{name}"


def test_what_is_waited_for_says_when_it_is_ready():
    for service in services().values():
        for needed, how in service.get("depends_on", {}).items():
            if how["condition"] == "service_healthy":
                assert "test" in services()[needed]["healthcheck"]
            else:
                assert services()[needed]["restart"] == "no"
