"""Flow `monitor`: test what came in, and tell the world when the data must be refreshed.

The decision, its reasons and its memory (what was seen, the cool-down) are those of
`vivero.stages.monitor`; this flow only passes them on, under a key that stands for one alarm.
"""

from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.events import emit_event

from pipelines.commands import run_timed
from pipelines.experiment import retried
from pipelines.workspace import incoming_address, keep_alarm, own_workspace, run_name
from vivero.config.paths import artifacts_dir
from vivero.files import read_json

ALARM = "vivero.drift.alarm"
RESOURCE = "vivero.monitor"


@retried
def look(stage: str, source: str, root: Path) -> float:
    """Test what came in at a source. Returns seconds."""
    options = ["--repeat-until-announced", "--source", source]
    return run_timed(stage, ["vivero.cli.app", "monitor", *options], root)


@retried
def acknowledge(stage: str, key: str, root: Path) -> float:
    """Note that an alarm was passed on; a run that dies before leaves it to the next one."""
    return run_timed(stage, ["vivero.cli.app", "monitor", "--announced", key], root)


@task(cache_policy=NO_CACHE, persist_result=False)
def announce(decision: dict[str, Any]) -> None:
    """Emit the event that starts `refresh-data` (prefect.yaml).

    Its id is that of the alarm: Prefect's server drops an event that it has seen (for 30 minutes).
    """
    payload = {name: decision[name] for name in ("idempotency_key", "reasons", "num_new")}
    alarm_id = uuid5(NAMESPACE_URL, f"{ALARM}/{decision['idempotency_key']}")
    emit_event(ALARM, resource={"prefect.resource.id": RESOURCE}, payload=payload, id=alarm_id)


@flow(name="monitor", persist_result=False, result_serializer="json")
def monitor(ref: str = "main") -> bool:
    """Look at what came in since the last time; returns whether it was reason to train again.

    Args:
        ref: Branch or tag whose settings hold.
    """
    with own_workspace(run_name(), ref) as workspace:
        look("monitor", incoming_address(workspace.root), workspace.root)
        decision = read_json(artifacts_dir(workspace.root, "monitor") / "decision.json")
        reasons = "\n".join(f"- {reason}" for reason in decision["reasons"]) or "- no reason to act"
        said = f"**{decision['num_new']} new images.**\n\n{reasons}"
        page = artifacts_dir(workspace.root, "monitor") / "last_alarm"
        if decision["trigger"] and page.exists():
            kept = keep_alarm(workspace, page, decision["idempotency_key"])
            said += f"\n\nThe page of the tests: `{kept / 'report.html'}`"
        create_markdown_artifact(said, key="drift", description="What came in")
        if decision["trigger"]:
            announce(decision)
            acknowledge("announced", decision["idempotency_key"], workspace.root)
    return bool(decision["trigger"])
