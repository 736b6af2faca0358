"""The place that runs git. Standard library only: some jobs install no package.

Only `vivero.integrity.clone` runs it as well, to ask whether it reads the clone at all.

A value that is not written in the code goes to git in one of three ways, and never as an option:
as a revision, which must be a full hash; as an operand behind `--end-of-options`; as a file behind
`--`. What a person types is turned into a full hash first (`resolve_commit`).
"""

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from vivero.config.variables import own_variables

GIT_TIMEOUT_S = 60.0
MAX_NAME_CHARACTERS = 250
FULL_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
REVISION = re.compile(r"(?:[0-9a-f]{40}|[0-9a-f]{64})(?:\^\{commit\}|:[\w./-]+)?")


def run_git(
    root: Path,
    *arguments: str,
    revisions: Sequence[str] = (),
    operands: Sequence[str] = (),
    given: bytes = b"",
    env: Mapping[str, str] | None = None,
    timeout_s: float | None = None,
) -> "subprocess.CompletedProcess[bytes]":
    """Run git in a folder; its exit code is for the caller to look at.

    Args:
        root: Where it runs.
        arguments: The command and its options, as the code has them; files stand behind `--`.
        revisions: Full hashes, with `^{commit}` or `:PATH` behind them where wanted.
        operands: Addresses, remotes, refs.
        given: Its standard input.
        env: Added to our environment.
        timeout_s: When it is stopped; None waits for it.

    Raises:
        ValueError: When a revision is not a full hash, or an operand looks like an option.
        OSError: When git cannot be started.
        subprocess.TimeoutExpired: When it was stopped.
    """
    for revision in revisions:
        if not REVISION.fullmatch(revision):
            raise ValueError(f"expected the full hash of a commit; got {revision[:80]!r}")
    for operand in operands:
        if not _is_safe(operand):
            raise ValueError(f"expected a name or an address for git; got {operand[:80]!r}")
    named = ["--end-of-options", *operands, *revisions] if operands or revisions else []
    return subprocess.run(
        ["git", *arguments, *named],
        cwd=root,
        env={**own_variables(os.environ), **(env or {})},
        input=given,
        capture_output=True,
        timeout=timeout_s,
        check=False,
    )


def git_output(
    root: Path,
    *arguments: str,
    revisions: Sequence[str] = (),
    operands: Sequence[str] = (),
    given: bytes = b"",
    timeout_s: float = GIT_TIMEOUT_S,
) -> bytes | None:
    """What git prints; None when it fails, is missing, or root is not the top of a repository.

    A repository of a folder above root does not count. The arguments are those of `run_git`.

    Raises:
        ValueError: When a revision is not a full hash, or an operand looks like an option.
    """
    if not (root / ".git").exists():
        return None
    try:
        done = run_git(
            root,
            *arguments,
            revisions=revisions,
            operands=operands,
            given=given,
            timeout_s=timeout_s,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return None if done.returncode else done.stdout


def git_text(root: Path, *arguments: str, timeout_s: float = GIT_TIMEOUT_S) -> str | None:
    """The same as text, without white space at its ends."""
    output = git_output(root, *arguments, timeout_s=timeout_s)
    return None if output is None else output.decode(errors="replace").strip()


def resolve_commit(root: Path, name: str) -> str | None:
    """Full hash of the commit that a name stands for, such as HEAD~1, a branch or a tag.

    None when git knows no such commit, or when the name could be an option of git.
    """
    if not 0 < len(name) <= MAX_NAME_CHARACTERS or not _is_safe(name):
        return None
    verify = ("rev-parse", "--verify", "--quiet")
    output = git_output(root, *verify, operands=[f"{name}^{{commit}}"])
    sha = (output or b"").decode(errors="replace").strip()
    return sha if FULL_HASH.fullmatch(sha) else None


def _is_safe(text: str) -> bool:
    """Whether git cannot take a text for an option, and it fits into one line."""
    return not text.startswith("-") and text.isprintable()
