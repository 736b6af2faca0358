"""What git says of a repository; without git, or without a repository, nothing."""

import subprocess
from pathlib import Path

GIT_TIMEOUT_S = 60.0


def git_output(
    root: Path, *arguments: str, given: bytes = b"", timeout_s: float = GIT_TIMEOUT_S
) -> bytes | None:
    """What git prints; None when it fails, is missing, or root is not the top of a repository.

    Args:
        root: Where it runs; a repository of a folder above does not count.
        arguments: Of git.
        given: What it reads.
        timeout_s: When it is given up.
    """
    if not (root / ".git").exists():
        return None
    try:
        return subprocess.run(
            ["git", *arguments],
            cwd=root,
            input=given,
            capture_output=True,
            timeout=timeout_s,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None


def git_text(root: Path, *arguments: str, timeout_s: float = GIT_TIMEOUT_S) -> str | None:
    """The same as text, without white space at its ends."""
    said = git_output(root, *arguments, timeout_s=timeout_s)
    return None if said is None else said.decode(errors="replace").strip()
