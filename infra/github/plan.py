"""`make plan`: what a retraining has to run, and where; needs neither data nor credentials."""

import json
import sys

from infra.github.outputs import add_summary, set_outputs
from infra.github.request import Request, request_of_this_run
from vivero.cli.planning import PlannedStage, plan_stages
from vivero.config.load import load_config
from vivero.config.paths import PARAMS, project_dir
from vivero.errors import ViveroError


def decide(request: Request, planned: list[PlannedStage]) -> dict[str, str]:
    """Outputs of the plan job: is there anything to do, and on which machine."""
    must_run = bool(planned) or request.force or request.has_new_data
    return {
        "must_run": json.dumps(must_run),
        "force": json.dumps(request.force),
        "has_new_data": json.dumps(request.has_new_data),
        "stages": json.dumps([stage.name for stage in planned]),
        "labels": json.dumps(request.labels),
    }


def describe(request: Request, planned: list[PlannedStage]) -> str:
    """The plan as a table for the run's page."""
    lines = [f"Asked for: {request.reason}. Runs on: {', '.join(request.labels)}.", ""]
    if planned:
        lines += ["| stage | why |", "| --- | --- |"]
        lines += [f"| {stage.name} | {'; '.join(stage.reasons)} |" for stage in planned]
    else:
        lines.append("Every stage is as dvc.lock says.")
    return "\n".join(["### Plan", *lines])


def main() -> None:
    """Decide and hand on; 1 = the event is refused or the repository cannot be read."""
    try:
        root = project_dir()
        load_config(root / PARAMS)  # a mistake in it costs seconds here, and a machine later
        request, planned = request_of_this_run(), plan_stages(root)
    except ViveroError as error:
        sys.exit(f"plan: {error}")
    set_outputs(decide(request, planned))
    add_summary(describe(request, planned))


if __name__ == "__main__":
    main()
