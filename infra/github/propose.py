"""`make propose`: a pull request with the new dvc.lock, where the gates let the candidate pass.

Standard library, `git` and `gh` only; it runs nothing of what was trained. The branch is named by
the run, so a second start finds it and changes nothing. GitHub starts no workflow for what
GITHUB_TOKEN pushes, so nothing can go round in circles; ci is then asked for by name.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from infra.github.commits import commit_file, git

PASSED = ("promote", "first")
FILES = {"dvc.lock": 1_000_000, "data.dvc": 10_000}  # and their largest size, bytes
TEXT = re.compile(r"[^\x00-\x1f\x7f`<>\[\]|@]{1,300}")


class ProposalError(ValueError):
    """What was handed over is not what a training leaves."""


def propose(root: Path, folder: Path, run_id: str) -> str | None:
    """Commit what was made on branch runs/github-RUN_ID and open its pull request.

    Args:
        root: A checkout of the commit that was trained.
        folder: What `make retrain` left.
        run_id: Of the run, in digits.

    Returns:
        The branch; None when the gates said no, or nothing changed.

    Raises:
        ProposalError: When a file is missing, too big or not of its form.
    """
    verdict = _read(folder / "verdict.json")
    if verdict.get("verdict") not in PASSED:
        return None
    if not re.fullmatch(r"[0-9]{1,20}", run_id):
        raise ProposalError(f"the run's id must be digits; got {run_id!r}")
    for name, limit in FILES.items():
        if (folder / name).is_symlink() or (folder / name).stat().st_size > limit:
            raise ProposalError(f"{name} is no file of at most {limit} bytes")
        shutil.copyfile(folder / name, root / name)
    if not any([commit_file(root, name) for name in ("data.dvc", "dvc.lock")]):
        return None
    branch = f"runs/github-{run_id}"
    if not git(root, "ls-remote", "origin", f"refs/heads/{branch}"):
        git(root, "push", "--quiet", "origin", f"HEAD:refs/heads/{branch}")
    body = describe(verdict, _read(folder / "registered.json"))
    _open_pull_request(root, branch, body)
    return branch


def describe(verdict: dict[str, Any], registered: dict[str, Any]) -> str:
    """The pull request's text: the verdict gate by gate, and what to do next."""
    version = str(registered.get("version"))
    if not re.fullmatch(r"[0-9]{1,9}", version):
        raise ProposalError(f"registered.json names no version; got {version!r}")
    lines = [f"Version {version} is registered; the gates say '{verdict['verdict']}'.", ""]
    lines += ["| gate | passed | why |", "| --- | --- | --- |"]
    for gate in verdict.get("gates", []):
        mark = "yes" if gate["passed"] is True else "no"
        lines.append(f"| {_text(gate['name'])} | {mark} | {_text(gate['reason'])} |")
    lines += ["", "Merging this makes its `dvc.lock` that of the main branch. The champion stays"]
    lines += ["as it is until the workflow `promote` is started by hand and approved, with"]
    lines += [f"version {version} and the version that is champion now."]
    return "\n".join(lines) + "\n"


def _text(value: object) -> str:
    text = str(value)
    return text if TEXT.fullmatch(text) else "(not shown: unusual characters)"


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ProposalError(f"{path.name} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise ProposalError(f"{path.name} is no object")
    return value


def _open_pull_request(root: Path, branch: str, body: str) -> None:
    listed = _gh(root, "pr", "list", "--head", branch, "--state", "all", "--json", "number")
    if json.loads(listed):
        return
    title = "Retrained: dvc.lock of a candidate that passed the gates"
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
        branch = propose(Path.cwd(), Path(sys.argv[1]), os.environ.get("GITHUB_RUN_ID", ""))
    except (ProposalError, OSError) as error:
        sys.exit(f"propose: {error}")
    except subprocess.CalledProcessError as error:
        sys.exit(f"propose: `{' '.join(error.cmd[:3])}` failed: {error.stderr.strip()}")
    said = f"proposed as {branch}" if branch else "nothing to propose"
    sys.stdout.write(f"propose: {said}\n")


if __name__ == "__main__":
    main()
