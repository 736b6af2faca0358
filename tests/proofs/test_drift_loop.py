"""Drift is answered once: alarm, event, new data on a branch, one experiment; then a cool-down."""

import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from infra.services import postgres
from infra.services.readiness import s3_client
from tests.end_to_end.conftest import draw_images
from tests.proofs.stack import Json, Stack
from tests.services import open_folder

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3000),
    pytest.mark.skipif(
        postgres.bin_dir() is None, reason="no PostgreSQL (Debian: apt-get install postgresql)"
    ),
]
EXPERIMENT, REFRESH = "experiment/local", "refresh-data/local"
QUIET_S = 20.0  # an event starts its run within two seconds
SETTLE_S = 3.0  # the monitor does not look at files of the last moments
AGAIN = """
import json, sys
from pipelines.monitor import announce
announce.fn(json.loads(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """Real services and a first champion, made by a run of the deployment."""
    with open_folder() as folder:
        made = Stack.made(folder / "house")
        try:
            made.command("infra.services", "up")
            made.quiet_schedules()
            made.publish_data()
            assert made.ended(started(made, EXPERIMENT)) == "COMPLETED"
            yield made
        finally:
            made.command("infra.services", "down")


def runs(stack: Stack, deployment: str) -> list[Json]:
    """All runs of a deployment that a person, an event or another run has started."""
    found = stack.patiently(f"deployments/name/{deployment}")
    wanted = {"deployments": {"id": {"any_": [found["id"]]}}, "sort": "EXPECTED_START_TIME_ASC"}
    found = stack.patiently("flow_runs/filter", wanted)
    return [run for run in found if not run["auto_scheduled"]]


def started(stack: Stack, deployment: str, **parameters: object) -> str:
    """Start a run by hand; its id."""
    found = stack.patiently(f"deployments/name/{deployment}")
    path = f"deployments/{found['id']}/create_flow_run"
    return str(stack.patiently(path, {"parameters": parameters})["id"])


def finished(stack: Stack, deployment: str, **parameters: object) -> str:
    """Start a run by hand and wait until it has completed; its id."""
    run_id = started(stack, deployment, **parameters)
    state = stack.ended(run_id)
    assert state == "COMPLETED", [log["message"] for log in stack.logs(run_id)][-30:]
    return run_id


def the_only_run(stack: Stack, deployment: str, num_before: int = 0) -> Json:
    """The run that an event or another run has started."""
    give_up_at = time.monotonic() + 120
    while len(found := runs(stack, deployment)) == num_before:
        assert time.monotonic() < give_up_at, f"no run of {deployment} was started"
        time.sleep(1)
    assert len(found) == num_before + 1
    return found[-1]


def come_in(stack: Stack, name: str) -> None:
    """Negatives of the pictures arrive in the bucket, at other places each time."""
    client, folder = s3_client(stack.environment), stack.folder / name
    draw_images(folder, num_per_class=30)
    for path in folder.rglob("*.png"):
        pixels = 255 - np.asarray(Image.open(path))
        Image.fromarray(np.roll(pixels, len(name), axis=1)).save(path)
        key = str(path.relative_to(stack.folder))
        client.put_object(Bucket="vivero-incoming", Key=key, Body=path.read_bytes())
    time.sleep(SETTLE_S)


def decision_of(stack: Stack, run_id: str) -> Json:
    """What the monitor of a run decided, in its words."""
    return stack.artifacts(run_id)["drift"]["data"]


def branches(stack: Stack) -> dict[str, str]:
    """Commit of each branch."""
    listed = stack.clone.git("ls-remote", "--heads", str(stack.folder / "origin.git"))
    pairs = (line.split("\t") for line in listed.splitlines())
    return {name.removeprefix("refs/heads/"): commit for commit, name in pairs}


def test_an_alarm_is_answered_once_with_new_data_and_one_experiment(stack: Stack):
    come_in(stack, "monday")
    alarm = finished(stack, "monitor/local")
    assert "drift" in decision_of(stack, alarm).lower()

    refresh = the_only_run(stack, REFRESH)
    key = refresh["parameters"]["idempotency_key"]
    assert key.startswith("monitor-")
    assert stack.ended(refresh["id"]) == "COMPLETED"
    (branch,) = [name for name in branches(stack) if name.startswith("data/")]
    origin = str(stack.folder / "origin.git")
    stack.clone.git("fetch", "--quiet", origin, branch)
    assert stack.clone.git("diff", "--name-only", "main", "FETCH_HEAD").split() == ["data.dvc"]
    assert stack.clone.git("rev-parse", "FETCH_HEAD^") == stack.clone.git("rev-parse", "main")

    training = the_only_run(stack, EXPERIMENT, num_before=1)
    assert training["parameters"]["ref"] == branch
    assert training["idempotency_key"] == key
    assert stack.ended(training["id"]) == "COMPLETED"
    assert {version["version"] for version in stack.versions()} == {"1", "2"}

    # the same alarm again: heard once by the server, and once more by a run started by hand
    told = f'{{"idempotency_key": "{key}", "reasons": [], "num_new": 60}}'
    stack.run([sys.executable, "-c", AGAIN, told], stack.clone.root)
    time.sleep(QUIET_S)
    assert len(runs(stack, REFRESH)) == 1
    finished(stack, REFRESH, idempotency_key=key)
    assert [name for name in branches(stack) if name.startswith("data/")] == [branch]
    assert len(runs(stack, EXPERIMENT)) == 2

    # more of the same within the cool-down: held back, and nothing is started
    come_in(stack, "tuesday")
    held = finished(stack, "monitor/local")
    assert "held back" in decision_of(stack, held)
    time.sleep(QUIET_S)
    assert len(runs(stack, REFRESH)) == 2
    assert len(runs(stack, EXPERIMENT)) == 2


def test_bad_images_leave_the_data_as_it_was(stack: Stack, tmp_path: Path):
    before = branches(stack)
    for index in range(200):
        path = tmp_path / "incoming" / "bar" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"no picture")
    run_id = started(stack, REFRESH, source=str(tmp_path / "incoming"))
    state = stack.ended(run_id)
    said = "\n".join(log["message"] for log in stack.logs(run_id))
    assert (state == "FAILED") or "did not change" in stack.artifacts(run_id)["data"]["data"], said
    assert branches(stack) == before
    shutil.rmtree(tmp_path / "incoming")


def test_promotion_and_its_undoing_by_a_flow(stack: Stack):
    stack.command("vivero.cli.app", "promote", "2", "--force", "--reason", "for the test")
    assert stack.aliases()["champion"] == "2"
    again = {"action": "promote", "version": "1", "reason": "it was better"}
    assert stack.ended(started(stack, "promotion/local", **again)) == "FAILED"  # judged as first
    assert stack.aliases()["champion"] == "2"
    stack.command("vivero.cli.app", "promote", "1", "--force", "--reason", "it was better")
    finished(stack, "promotion/local", **again)
    assert stack.aliases()["champion"] == "1"
    for _ in range(2):  # sent again, it takes nothing more back
        wish = {"action": "rollback", "expect_champion": "1", "reason": "it was not"}
        finished(stack, "promotion/local", **wish)
        assert stack.aliases()["champion"] == "2"
    history = stack.command("vivero.cli.app", "models", "history").stdout
    assert "it was better" in history
    assert "it was not" in history

    for wish in (
        {"action": "promote", "version": "1", "expect_champion": "1"},  # no longer so
        {"action": "rollback", "version": "1"},  # which takes none
    ):
        assert stack.ended(started(stack, "promotion/local", **wish)) == "FAILED"
    assert stack.aliases()["champion"] == "2"
