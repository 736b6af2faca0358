"""prefect.yaml against the flows that it deploys: what exists, what fits, what runs when."""

import importlib.util
import inspect
from pathlib import Path
from typing import Any

import pytest
from prefect import Flow
from prefect.client.schemas.schedules import CronSchedule
from prefect.utilities.schema_tools.validation import validate
from ruamel.yaml import YAML

REPOSITORY = Path(__file__).parents[2]
DEPLOYMENTS: list[dict[str, Any]] = YAML(typ="safe").load(
    (REPOSITORY / "prefect.yaml").read_text()
)["deployments"]
FLOWS = {"experiment", "refresh-data", "monitor", "promotion"}
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def flow_of(deployment: dict[str, Any]) -> "Flow[..., Any]":
    path, name = deployment["entrypoint"].split(":")
    spec = importlib.util.spec_from_file_location("deployed", REPOSITORY / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = getattr(module, name)
    assert isinstance(found, Flow)
    return found


def named(deployment: dict[str, Any]) -> str:
    return f"{Path(deployment['entrypoint'].split(':')[0]).stem}-{deployment['name']}"


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=named)
def test_its_parameters_fit_the_flow(deployment: dict[str, Any]):
    flow = flow_of(deployment)
    assert deployment["enforce_parameter_schema"] is True
    assert validate(deployment["parameters"], flow.parameters.model_dump_for_openapi()) == []
    triggered = {name for t in deployment.get("triggers", []) for name in t["parameters"]}
    assert triggered <= set(inspect.signature(flow.fn).parameters)


def test_every_flow_is_declared_once_for_every_pool():
    declared = [(flow_of(d).name, d["work_pool"]["name"]) for d in DEPLOYMENTS]
    pools = ("local", "docker", "kubernetes")
    assert sorted(declared) == sorted((flow, pool) for flow in FLOWS for pool in pools)
    assert all(d["name"] == d["work_pool"]["name"] for d in DEPLOYMENTS)


def test_schedules_are_in_utc_away_from_the_full_hour_and_run_in_one_pool_only():
    active = {}
    for deployment in DEPLOYMENTS:
        for schedule in deployment.get("schedules", []):
            assert CronSchedule(cron=schedule["cron"], timezone=schedule["timezone"])
            assert schedule["timezone"] == "UTC"
            assert 5 <= int(schedule["cron"].split()[0]) <= 55
            if schedule.get("active", True):
                active[named(deployment)] = schedule["cron"].split()[1]
    assert active == {"experiment-local": "2", "monitor-local": "*"}


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=named)
def test_it_says_what_it_is_and_does_not_pile_up(deployment: dict[str, Any]):
    assert deployment["description"]
    assert "vivero" in deployment["tags"]
    assert deployment["concurrency_limit"]["limit"] == 1
    assert deployment["concurrency_limit"]["collision_strategy"] in ("ENQUEUE", "CANCEL_NEW")


def test_no_deployment_holds_a_key():
    """Prefect keeps what stands in a deployment, and shows it to everybody who looks."""
    for deployment in DEPLOYMENTS:
        env = deployment["work_pool"]["job_variables"]["env"]
        assert not [name for name in env if "SECRET" in name or "KEY_ID" in name]


def test_containers_are_given_the_key_that_signs_models():
    """One made in a container would be lost with it: registry/keys.py refuses to make it there."""
    guide = (REPOSITORY / "docs/guides/flows.md").read_text()
    for deployment in DEPLOYMENTS:
        variables = deployment["work_pool"]["job_variables"]
        key = variables["env"].get("VIVERO_SIGNING_KEY")
        if deployment["name"] == "local":  # on its user's machine, where the key stays
            assert key is None
            continue
        assert "VIVERO_REPOSITORY" in variables["env"]
        if deployment["name"] == "docker":
            assert f"/etc/vivero/signing_key.pem:{key}:ro" in variables["volumes"]
        else:
            assert f'"mountPath": "{Path(key).parent}"' in guide


def test_the_flow_promotion_hands_on_which_champion_is_expected():
    from pipelines.promotion import command_arguments
    from vivero.errors import PromotionError

    expected = ["--reason", "why", "--expect-champion", "7"]
    assert command_arguments("rollback", None, "why", "7") == expected
    assert command_arguments("promote", "8", "why", "7") == ["8", *expected]
    for action, version in (("promote", None), ("rollback", "8")):
        with pytest.raises(PromotionError, match="rollback takes none"):
            command_arguments(action, version, "why", "7")
    for unsure in ("any", "none"):
        with pytest.raises(PromotionError, match="started again would undo the first"):
            command_arguments("rollback", None, "why", unsure)


def test_an_alarm_starts_a_refresh_under_its_key():
    [trigger] = [t for d in DEPLOYMENTS for t in d.get("triggers", [])]
    from pipelines.monitor import ALARM, RESOURCE

    assert trigger["expect"] == [ALARM]
    assert trigger["match"] == {"prefect.resource.id": RESOURCE}
    assert "idempotency_key" in trigger["parameters"]
