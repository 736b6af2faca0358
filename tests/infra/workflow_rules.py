"""Rules that every workflow keeps, each a function from a parsed workflow to what breaks it."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MAKEFILE = Path(__file__).parents[2] / "Makefile"
HOSTED = "ubuntu-24.04"
FROM_STRANGERS = {"pull_request", "pull_request_target"}
MOVES_THE_ALIAS = {"promote", "rollback"}
Workflow = dict[Any, Any]


def triggers(workflow: Workflow) -> set[str]:
    on = workflow[True]  # YAML 1.1 reads `on` as a truth value
    return {on} if isinstance(on, str) else set(on)


def steps(workflow: Workflow) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, job in workflow["jobs"].items():
        for step in job["steps"]:
            yield name, step


def targets(workflow: Workflow) -> dict[str, list[str]]:
    """Make targets by job."""
    found: dict[str, list[str]] = {name: [] for name in workflow["jobs"]}
    for name, step in steps(workflow):
        if "run" in step:
            found[name] += shlex.split(step["run"])[1:]
    return found


def unpinned_actions(workflow: Workflow) -> list[str]:
    used = [step["uses"] for _, step in steps(workflow) if "uses" in step]
    return [action for action in used if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action)]


def not_only_make(workflow: Workflow) -> list[str]:
    """Steps that do more than call one target, so a person could not do the same here."""
    runs = [step["run"].strip() for _, step in steps(workflow) if "run" in step]
    return [run for run in runs if not re.fullmatch(r"make [a-z][a-z-]*", run)]


def interpolation_into_shell(workflow: Workflow) -> list[str]:
    return [step["run"] for _, step in steps(workflow) if "${{" in step.get("run", "")]


def broad_permissions(workflow: Workflow) -> list[str]:
    """Permissions at the top, jobs that do not name theirs, and tokens for strangers' code."""
    found = [] if workflow.get("permissions") == {} else ["permissions at the top must be {}"]
    for name, job in workflow["jobs"].items():
        granted = job.get("permissions")
        if not isinstance(granted, dict):
            found.append(f"{name}: no permissions of its own")
        elif FROM_STRANGERS & triggers(workflow) and granted != {"contents": "read"}:
            found.append(f"{name}: runs a stranger's code with {granted}")
    return found


def machines_for_strangers(workflow: Workflow) -> list[str]:
    """Jobs that a pull request could start on a machine of ours, or on one that is not known."""
    if not FROM_STRANGERS & triggers(workflow):
        return []
    return [name for name, job in workflow["jobs"].items() if job["runs-on"] != HOSTED]


def secrets_for_strangers(workflow: Workflow) -> list[str]:
    if not FROM_STRANGERS & triggers(workflow):
        return []
    return re.findall(r"secrets\.\w+|github\.token", str(workflow))


def open_ends(workflow: Workflow) -> list[str]:
    """Jobs without a limit of time, workflows without concurrency, kept credentials."""
    found = [
        f"{n}: no timeout" for n, job in workflow["jobs"].items() if not job.get("timeout-minutes")
    ]
    found += [] if "concurrency" in workflow else ["no concurrency"]
    for name, step in steps(workflow):
        is_checkout = step.get("uses", "").startswith("actions/checkout@")
        if is_checkout and step.get("with", {}).get("persist-credentials") is not False:
            found.append(f"{name}: the checkout keeps its credentials")
    return found


def pulled_heads(workflow: Workflow) -> list[str]:
    """A privileged trigger together with the code of a pull request."""
    privileged = {"pull_request_target", "workflow_run"} & triggers(workflow)
    found = ["pull_request_target"] if "pull_request_target" in triggers(workflow) else []
    for name, step in steps(workflow):
        if privileged and step.get("uses", "").startswith("actions/checkout@"):
            found += [f"{name}: checks out {step['with']['ref']}"] if "ref" in step["with"] else []
    return found


def alias_moved_unasked(workflow: Workflow) -> list[str]:
    """Jobs that move the alias without the approval of environment production."""
    return [
        name
        for name, called in targets(workflow).items()
        if MOVES_THE_ALIAS & set(called)
        and (
            workflow["jobs"][name].get("environment") != "production"
            or triggers(workflow) != {"workflow_dispatch"}
        )
    ]


def long_lived_keys(workflow: Workflow) -> list[str]:
    """Keys of a cloud in any form but a role for hours."""
    return re.findall(r"(?i)aws[-_](?:access[-_]key[-_]id|secret[-_]access[-_]key)", str(workflow))


def packages_beside_secrets(workflow: Workflow) -> list[str]:
    """Steps that install packages and have an environment, a token or a role."""
    found = []
    for name, job in workflow["jobs"].items():
        has_role = False
        for step in job["steps"]:
            has_role |= "credentials@" in step.get("uses", "")
            called = shlex.split(step.get("run", ""))[1:]
            if any(installs_packages(target) for target in called) and ("env" in step or has_role):
                found.append(f"{name}: {step['run']}")
    return found


def installs_packages(target: str) -> bool:
    """Whether a target makes the environment, itself or through what it needs."""
    [needed] = re.findall(rf"^{target}:([^#\n]*)", MAKEFILE.read_text(), re.MULTILINE)
    return target == "setup" or any(installs_packages(name) for name in needed.split())


def secrets_beside_other_work(workflow: Workflow) -> list[str]:
    """Secrets outside `make sign`, and more than the key in it."""
    found = []
    for name, job in workflow["jobs"].items():
        found += [f"{name}: {word}" for word in re.findall(r"secrets\.\w+", str(job.get("env")))]
        for step in job["steps"]:
            has_secret = "secrets." in str(step)
            if has_secret != (step.get("run") == "make sign") or (
                has_secret and len(step["env"]) != 1
            ):
                found.append(f"{name}: {step}")
    return found


RULES = (
    unpinned_actions,
    not_only_make,
    interpolation_into_shell,
    broad_permissions,
    machines_for_strangers,
    secrets_for_strangers,
    open_ends,
    pulled_heads,
    alias_moved_unasked,
    long_lived_keys,
    packages_beside_secrets,
    secrets_beside_other_work,
)
