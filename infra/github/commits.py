"""Commits that depend on their content and their parent alone; standard library and git only.

Two jobs make the same commit from the same files: what was trained names the very commit that is
proposed afterwards by a job that never saw the training.
"""

import os
import subprocess
from pathlib import Path

BOT = "github-actions[bot]"
EMAIL = "actions@users.noreply.github.com"
MESSAGES = {"data.dvc": "data.dvc: new images", "dvc.lock": "dvc.lock: a retraining"}


def git(root: Path, *arguments: str, **variables: str) -> str:
    """What git says, as the bot; its failure is a CalledProcessError with what it said."""
    who = ["-c", f"user.name={BOT}", "-c", f"user.email={EMAIL}", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", *who, *arguments],
        cwd=root,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def commit_file(root: Path, name: str) -> bool:
    """Commit one file of MESSAGES, dated as its parent is; whether it had changed."""
    if not git(root, "status", "--porcelain", "--", name):
        return False
    date = git(root, "log", "-1", "--format=%cI")
    message = ("commit", "--quiet", "--only", "--message", MESSAGES[name], "--", name)
    git(root, *message, GIT_AUTHOR_DATE=date, GIT_COMMITTER_DATE=date)
    return True
