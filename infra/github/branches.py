"""The branch that a retraining proposes: named by the alarm that asked for it, else by the run.

One alarm, one branch: an alarm that is sent twice is recognised by the branch of its first time.
Standard library and git only.
"""

import re
from pathlib import Path

from infra.github.commits import git

# No '..' and neither '.' nor '.lock' at the end: git takes no such branch.
KEY = re.compile(r"(?!.*(?:\.\.|\.lock\Z))[A-Za-z0-9._-]{0,127}[A-Za-z0-9_-]")
RUN_ID = re.compile(r"[0-9]{1,20}")


def checked_key(key: str) -> str:
    """The key of an alarm, if it can be one part of a branch's name.

    Raises:
        ValueError: When it cannot; the message says what a key is.
    """
    if not KEY.fullmatch(key):
        raise ValueError(
            f"the key of an alarm must be 1 to 128 of A-Z a-z 0-9 . _ - without '..' and without "
            f"'.' or '.lock' at its end; got {key[:150]!r}"
        )
    return key


def alarm_branch(key: str) -> str:
    """Of the alarm with this key.

    Raises:
        ValueError: When the key is not of its form.
    """
    return f"runs/alarm-{checked_key(key)}"


def run_branch(run_id: str) -> str:
    """Of a run of GitHub's that no alarm asked for.

    Raises:
        ValueError: When run_id is not digits alone.
    """
    if not RUN_ID.fullmatch(run_id):
        raise ValueError(f"the run's id must be digits; got {run_id!r}")
    return f"runs/github-{run_id}"


def is_on_remote(root: Path, branch: str) -> bool:
    """Whether the repository that root was cloned from has this branch; nobody is asked for a name.

    Raises:
        subprocess.CalledProcessError: When the repository does not answer.
    """
    operands = ["origin", f"refs/heads/{branch}"]
    return bool(git(root, "ls-remote", operands=operands, GIT_TERMINAL_PROMPT="0"))
