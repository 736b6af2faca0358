"""`make dispatch-retrain`: tell GitHub what the monitor decided, as a repository_dispatch.

For machines that watch but do not train. Sends only when artifacts/monitor/decision.json says so;
`gh` carries the credentials, the decision goes to it on standard input.
"""

import json
import subprocess
import sys
from typing import Any

from infra.github.request import DISPATCH_TYPE, Alarm
from vivero.config.paths import artifacts_dir, project_dir
from vivero.files import read_json


def payload(decision: dict[str, Any]) -> dict[str, Any]:
    """The body of the dispatch: the fields of an alarm, held to the form that is read back."""
    fields = {name: decision[name] for name in Alarm.model_fields}
    alarm = Alarm.model_validate(fields)
    return {"event_type": DISPATCH_TYPE, "client_payload": alarm.model_dump()}


def main() -> None:
    """Send it; 1 = there is no decision, or GitHub refused."""
    path = artifacts_dir(project_dir(), "monitor") / "decision.json"
    if not path.exists():
        sys.exit(f"dispatch-retrain: {path} is missing; run `vivero monitor` first")
    decision = read_json(path)
    if not decision["trigger"]:
        sys.stdout.write("dispatch-retrain: the monitor sees no reason to train\n")
        return
    command = ["gh", "api", "--method", "POST", "repos/{owner}/{repo}/dispatches", "--input", "-"]
    done = subprocess.run(command, input=json.dumps(payload(decision)), text=True, check=False)
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
