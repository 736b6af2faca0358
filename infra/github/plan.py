"""`make plan`: what a retraining has to run, and where; needs no data and no cloud.

Only for an alarm it asks the repository that it was cloned from whether it was answered before.
"""

import json
import subprocess
import sys
from pathlib import Path

from infra.github.branches import alarm_branch, is_on_remote
from infra.github.outputs import add_summary, set_outputs
from infra.github.request import Request, request_of_this_run
from vivero.cli.planning import PlannedStage, plan_stages
from vivero.config.load import load_config
from vivero.config.paths import PARAMS, project_dir
from vivero.errors import RemoteError, ViveroError
from vivero.processes import run_program


def answered_on(root: Path, request: Request) -> str | None:
    """The branch that proposes what came of the same alarm before; None for a new one, or for none.

    Raises:
        RemoteError: When the repository does not answer.
    """
    if not request.alarm_key:
        return None
    branch = alarm_branch(request.alarm_key)
    try:
        return branch if is_on_remote(root, branch) else None
    except subprocess.CalledProcessError as error:
        said = " ".join(error.stderr.split())
        raise RemoteError(
            f"the repository does not say whether it has the branch {branch}: {said}; "
            f"`git ls-remote origin` in {root} should list its branches"
        ) from error


def decide(
    request: Request, planned: list[PlannedStage], answered: str | None = None
) -> dict[str, str]:
    """Outputs of the plan job: is there anything to do, and on which machine.

    Args:
        request: What was asked for.
        planned: The stages that are not up to date.
        answered: The branch of an alarm that comes once more: then there is nothing to do.
    """
    is_new = bool(planned) or request.force or request.has_new_data
    must_run = is_new and answered is None
    return {
        "must_run": json.dumps(must_run),
        "force": json.dumps(request.force),
        "has_new_data": json.dumps(request.has_new_data),
        "stages": json.dumps([stage.name for stage in planned]),
        "labels": json.dumps(request.labels),
        "alarm_key": request.alarm_key,
    }


def describe(request: Request, planned: list[PlannedStage], answered: str | None = None) -> str:
    """The plan as a table for the run's page; arguments as of `decide`."""
    lines = [f"Asked for: {request.reason}. Runs on: {', '.join(request.labels)}.", ""]
    if answered is not None:
        lines.append(f"Nothing to do: the branch `{answered}` has the result of this same alarm.")
    elif planned:
        lines += ["| stage | why |", "| --- | --- |"]
        lines += [f"| {stage.name} | {'; '.join(stage.reasons)} |" for stage in planned]
    else:
        lines.append("Every stage is as dvc.lock says.")
    return "\n".join(["### Plan", *lines])


def main() -> None:
    """Decide and hand on; 1 = the event, the settings or the repository cannot be read."""
    try:
        root = project_dir()
        load_config(root / PARAMS)  # a mistake in it costs seconds here, and a machine later
        request, planned = request_of_this_run(), plan_stages(root)
        answered = answered_on(root, request)
    except ViveroError as error:
        sys.exit(f"plan: {error}")
    set_outputs(decide(request, planned, answered))
    add_summary(describe(request, planned, answered))


if __name__ == "__main__":
    run_program("plan", main)
