"""`make dispatch-retrain`: tell GitHub what the monitor decided, as a repository_dispatch.

For machines that watch but do not train. Sends only when artifacts/monitor/decision.json says so;
`gh` carries the credentials, the decision goes to it on standard input.
"""

import json
import subprocess
import sys
from typing import Any

from pydantic import ValidationError

from infra.github.request import DISPATCH_TYPE, Alarm, mistakes
from vivero.config.paths import artifacts_dir, project_dir
from vivero.errors import ConfigError
from vivero.files import read_json
from vivero.processes import run_program


def payload(decision: dict[str, Any]) -> dict[str, Any]:
    """The body of the dispatch: the fields of an alarm, held to the form that is read back.

    Raises:
        ConfigError: When a field is missing or not of its form: `make plan` would refuse it.
    """
    fields = {name: decision[name] for name in Alarm.model_fields if name in decision}
    try:
        alarm = Alarm.model_validate(fields)
    except ValidationError as error:
        raise ConfigError(
            f"the monitor's decision is not of the form that `make plan` reads: {mistakes(error)}; "
            f"nothing was sent. Run `vivero monitor` again with the code of this commit"
        ) from error
    return {"event_type": DISPATCH_TYPE, "client_payload": alarm.model_dump()}


def main() -> None:
    """Send it; 1 = there is no decision, it is not of its form, or GitHub refused."""
    path = artifacts_dir(project_dir(), "monitor") / "decision.json"
    if not path.exists():
        sys.exit(f"dispatch-retrain: {path} is missing; run `vivero monitor` first")
    decision = read_json(path)
    if not decision.get("trigger", True):  # one that does not say so is refused below
        sys.stdout.write("dispatch-retrain: the monitor sees no reason to train\n")
        return
    try:
        body = json.dumps(payload(decision))
    except ConfigError as error:
        sys.exit(f"dispatch-retrain: {error}")
    command = ["gh", "api", "--method", "POST", "repos/{owner}/{repo}/dispatches", "--input", "-"]
    done = subprocess.run(command, input=body, text=True, check=False)
    sys.exit(done.returncode)


if __name__ == "__main__":
    run_program("dispatch-retrain", main)
