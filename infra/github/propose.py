"""`make propose`: a pull request with the new dvc.lock, where the gates let the candidate pass.

Standard library, `git` and `gh` only; it runs nothing of what was trained. The branch is named by
the alarm or the run, so a second start finds it and changes nothing. GitHub starts no workflow for
what GITHUB_TOKEN pushes, so nothing can go round in circles; ci is then asked for by name.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from infra.github.branches import alarm_branch, is_on_remote, run_branch
from infra.github.commits import commit_file, git
from infra.github.records import RecordError, parse_gates, read_file, read_object

SAME = "champion"  # the retraining made the champion's own weights again
PASSED = ("promote", "first", SAME)
FILES = {"dvc.lock": 1_000_000, "data.dvc": 10_000}  # and their largest size, bytes
MAX_RECORD_BYTES = 1_000_000


ProposalError = RecordError  # nothing is proposed


def propose(root: Path, folder: Path, run_id: str, alarm_key: str = "") -> str | None:
    """Commit what was made on a branch of its own and open its pull request.

    Args:
        root: A checkout of the commit that was trained.
        folder: What `make retrain` left.
        run_id: Of the run, in digits; the branch is runs/github-RUN_ID.
        alarm_key: Of the alarm that asked for it; the branch is then runs/alarm-KEY.

    Returns:
        The branch; None when the gates said no, or nothing changed.

    Raises:
        RecordError: When a file, the run or the alarm is too large or not of its form.
    """
    verdict = read_object(folder / "verdict.json", MAX_RECORD_BYTES)
    if verdict.get("verdict") not in PASSED:
        return None
    try:
        branch = alarm_branch(alarm_key) if alarm_key else run_branch(run_id)
    except ValueError as error:
        raise ProposalError(str(error)) from error
    body = describe(verdict, read_object(folder / "registered.json", MAX_RECORD_BYTES))
    for name, limit in FILES.items():
        (root / name).write_bytes(read_file(folder / name, limit))
    if not any([commit_file(root, name) for name in ("data.dvc", "dvc.lock")]):
        return None
    if not is_on_remote(root, branch):
        git(root, "push", "--quiet", operands=["origin", f"HEAD:refs/heads/{branch}"])
    _open_pull_request(root, branch, title(verdict), body)
    return branch


def title(verdict: dict[str, Any]) -> str:
    """The pull request's title."""
    if verdict["verdict"] == SAME:
        return "Retrained: dvc.lock changed, the champion is the same"
    return "Retrained: dvc.lock of a candidate that passed the gates"


def describe(verdict: dict[str, Any], registered: dict[str, Any]) -> str:
    """The pull request's text: the verdict gate by gate, and what to do next.

    Raises:
        ProposalError: When a gate did not pass, or a record is not of its form.
    """
    version = str(registered.get("version"))
    if not re.fullmatch(r"[0-9]{1,9}", version):
        raise ProposalError(f"registered.json names no version; got {version!r}")
    lines = [_finding(verdict["verdict"], version), ""]
    lines += ["| gate | passed | why |", "| --- | --- | --- |"]
    gates = parse_gates(verdict.get("gates", []))
    refusals = [gate.name for gate in gates if not gate.is_passed]
    if refusals:
        raise ProposalError(
            f"the verdict is '{verdict['verdict']}', but did not pass: {', '.join(refusals)}"
        )
    for gate in gates:
        lines.append(f"| {gate.name} | yes | {gate.reason} |")
    lines += ["", "Merging this makes its `dvc.lock` that of the main branch."]
    lines.append(_next_step(verdict["verdict"], version))
    return "\n".join(lines) + "\n"


def _finding(name: str, version: str) -> str:
    if name == SAME:
        return f"The retraining made the weights of version {version} again, which is champion."
    return f"Version {version} is registered; the gates say '{name}'."


def _next_step(name: str, version: str) -> str:
    if name == SAME:
        return "The champion is the same before and after; nothing else is to be done."
    return (
        "The champion stays as it is until the workflow `promote` is started by hand and approved, "
        f"with version {version} and the version that is champion now."
    )


def _open_pull_request(root: Path, branch: str, title: str, body: str) -> None:
    listed = _gh(root, "pr", "list", "--head", branch, "--state", "all", "--json", "number")
    if json.loads(listed):
        return
    base = os.environ.get("GITHUB_REF_NAME", "main")
    options = ["--head", branch, "--base", base, "--title", title, "--body-file", "-"]
    _gh(root, "pr", "create", *options, text=body)
    _gh(root, "workflow", "run", "ci.yml", "--ref", branch)  # its required check


def _gh(root: Path, *arguments: str, text: str = "") -> str:
    done = subprocess.run(
        ["gh", *arguments], cwd=root, input=text, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def main() -> None:
    """Propose; 1 = what was handed over is refused, or GitHub or git refused."""
    try:
        branch = propose(
            Path.cwd(),
            Path(sys.argv[1]),
            run_id=os.environ.get("GITHUB_RUN_ID", ""),
            alarm_key=os.environ.get("ALARM_KEY", ""),
        )
    except (RecordError, OSError) as error:
        sys.exit(f"propose: {error}")
    except subprocess.CalledProcessError as error:
        sys.exit(f"propose: `{' '.join(error.cmd[:3])}` failed: {error.stderr.strip()}")
    said = f"proposed as {branch}" if branch else "nothing to propose"
    sys.stdout.write(f"propose: {said}\n")


if __name__ == "__main__":
    main()
