"""Commits that depend on their content and their parent alone; standard library and git only.

Two jobs make the same commit from the same files: what was trained names the very commit that is
proposed afterwards by a job that never saw the training.
"""

import subprocess
from collections.abc import Sequence
from pathlib import Path

from vivero.tracking.git import run_git

BOT = "github-actions[bot]"
EMAIL = "actions@users.noreply.github.com"
MESSAGES = {"data.dvc": "data.dvc: new images", "dvc.lock": "dvc.lock: a retraining"}


def git(
    root: Path,
    *arguments: str,
    operands: Sequence[str] = (),
    revisions: Sequence[str] = (),
    **variables: str,
) -> str:
    """What git prints, as the bot; its failure is a CalledProcessError with its message."""
    who = ["-c", f"user.name={BOT}", "-c", f"user.email={EMAIL}", "-c", "commit.gpgsign=false"]
    done = run_git(root, *who, *arguments, operands=operands, revisions=revisions, env=variables)
    output, message = (part.decode(errors="replace") for part in (done.stdout, done.stderr))
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, done.args, output, message)
    return output.strip()


def commit_file(root: Path, name: str) -> bool:
    """Commit one file of MESSAGES, dated as its parent is; whether it had changed."""
    if not git(root, "status", "--porcelain", "--", name):
        return False
    date = git(root, "log", "-1", "--format=%cI")
    message = ("commit", "--quiet", "--only", "--message", MESSAGES[name], "--", name)
    git(root, *message, GIT_AUTHOR_DATE=date, GIT_COMMITTER_DATE=date)
    return True
