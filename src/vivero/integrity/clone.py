"""Whether git reads this clone: what a stage makes in one that it does not read has no lineage.

Git itself is asked, with one fixed command: it alone knows all of its rules and settings.
"""

import os
import shlex
import subprocess
from pathlib import Path

from vivero.config.variables import own_variables
from vivero.errors import ConfigError

DUBIOUS = b"dubious ownership"
GIT_TIMEOUT_S = 60.0


def check_clone(root: Path) -> None:
    """Refuse to work in a clone of another user, whose commit nobody could record.

    Raises:
        ConfigError: When git does not read it; with what to type.
    """
    refusal = git_refusal(root)
    if refusal is not None:
        raise ConfigError(refusal)


def git_refusal(root: Path) -> str | None:
    """Why git does not read a clone that another user owns; None when it does."""
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "rev-parse", "--git-dir"],
            cwd=root,
            env={**own_variables(os.environ), "LC_ALL": "C"},
            capture_output=True,
            timeout=GIT_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):  # no git at all; `vivero doctor` names it
        return None
    if done.returncode == 0 or DUBIOUS not in done.stderr:
        return None
    return (
        f"{root} belongs to another user, so git does not read it. If you trust its content, run: "
        f"git config --global --add safe.directory {quoted(root)}. Or clone it: git clone "
        f"{quoted(root)} vivero && cd vivero && make setup"
    )


def quoted(path: Path) -> str:
    """A path as a shell takes it."""
    return shlex.quote(str(path))
