"""What a fresh Prefect server is told: pools, the rules for dead runs, our deployments.

    python -m infra.services.deploying      # with PREFECT_API_URL; may be repeated

A process of its own, because Prefect reads its environment when it is imported.
"""

import asyncio
import hashlib
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound
from prefect.workers.utilities import get_default_base_job_template_for_infrastructure_type

from infra.services.settings import POOLS, read_settings
from vivero.errors import ViveroError
from vivero.processes import run_program

LOCAL_RUNS = 4  # at once by the worker; one of each flow, says prefect.yaml
HEARTBEAT = "prefect.flow-run.heartbeat"
ENDS = ("Completed", "Failed", "Cancelled", "Crashed", "Paused", "Suspended")
PREFECT_FILE = "prefect.yaml"


def dead_run_rule(name: str, after: str, within_s: int, alive: tuple[str, ...]) -> AutomationCore:
    """A run that says nothing for too long is marked crashed.

    Args:
        name: Of the rule.
        after: The event that starts the clock.
        within_s: How long it may say nothing.
        alive: Events that stop the clock.
    """
    trigger = EventTrigger(
        after={after},
        expect=set(alive),
        match={"prefect.resource.id": ["prefect.flow-run.*"]},
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,
        within=timedelta(seconds=within_s),
    )
    message = f"its process gave no sign of life for {within_s} s; start it again to resume"
    crashed = ChangeFlowRunState(state=StateType.CRASHED, message=message)
    return AutomationCore(name=name, description=message, trigger=trigger, actions=[crashed])


def rules() -> list[AutomationCore]:
    """The rules for runs whose process died without a word."""
    ends = tuple(f"prefect.flow-run.{state}" for state in ENDS)
    started = ("prefect.flow-run.Running", "prefect.flow-run.Scheduled", "prefect.flow-run.Late")
    return [
        dead_run_rule("crash runs without a heartbeat", HEARTBEAT, 90, (HEARTBEAT, *ends)),
        dead_run_rule(
            "crash runs that never begin", "prefect.flow-run.Pending", 600, (*started, *ends)
        ),
    ]


def make_pools(client: SyncPrefectClient) -> None:
    """Make the work pools that prefect.yaml names; the worker of this machine serves `local`."""
    for name, kind in POOLS.items():
        try:
            client.read_work_pool(name)
        except ObjectNotFound:
            template = asyncio.run(get_default_base_job_template_for_infrastructure_type(kind))
            limit = LOCAL_RUNS if name == "local" else None
            client.create_work_pool(
                WorkPoolCreate(
                    name=name, type=kind, base_job_template=template or {}, concurrency_limit=limit
                )
            )


def make_rules(client: SyncPrefectClient) -> None:
    """Make the rules for dead runs, unless they are there; a person may have changed them."""
    there = {rule.name for rule in client.read_automations()}
    for rule in rules():
        if rule.name not in there:
            client.create_automation(rule)


def digest_of_flows(root: Path) -> str:
    """What the deployments depend on; the flows themselves are read at each run."""
    paths = [root / PREFECT_FILE, *sorted((root / "pipelines").glob("*.py"))]
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def deploy(root: Path, stamp_path: Path, client: SyncPrefectClient) -> str:
    """Deploy all that prefect.yaml declares, unless that was done.

    A second deployment of the same would start schedules again that a person has paused.

    Returns:
        What was done, in words.

    Raises:
        ViveroError: When Prefect refuses; with its words.
    """
    if not (root / PREFECT_FILE).exists():
        return f"no {PREFECT_FILE} here, nothing deployed"
    digest = digest_of_flows(root)
    deployed = stamp_path.read_text(encoding="utf-8") if stamp_path.exists() else ""
    there = client.read_deployments()
    if deployed == digest and there:
        return f"{len(there)} deployments as before"
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    done = subprocess.run(
        command, cwd=root, env=os.environ, capture_output=True, text=True, errors="replace"
    )
    if done.returncode:
        raise ViveroError(f"`prefect deploy --all` failed:\n{done.stdout}{done.stderr}")
    stamp_path.write_text(digest, encoding="utf-8")
    return f"{len(client.read_deployments())} deployments"


def main() -> None:
    """Tell the server of PREFECT_API_URL all it must know."""
    settings = read_settings(Path.cwd())
    try:
        with get_client(sync_client=True) as client:
            make_pools(client)
            make_rules(client)
            said = deploy(settings.root, settings.folder / "deployed", client)
    except ViveroError as error:
        sys.exit(str(error))
    sys.stdout.write(said + "\n")


if __name__ == "__main__":
    run_program("services", main)
