"""What git knows: which commit a name stands for, and which commits hold which version of data/.

Read with git's own plumbing, all branches in one process each, so ten thousand commits take a
second. Nothing is checked out and nothing is written. Without git everything is unknown: None.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from vivero.tracking.git import FULL_HASH, git_output, resolve_commit
from vivero.tracking.lineage import digest_in_pointer

POINTER = "data.dvc"
HEX_PREFIX = re.compile(r"[0-9a-f]{7,40}")


@dataclass(frozen=True)
class Commit:
    """A commit as git knows it.

    Attributes:
        sha: Its full hash.
        committed_at: ISO 8601 with the committer's zone; None where git does not know the commit.
        subject: First line of its message; None likewise.
        data_digest: What its data.dvc names; None where it has none or git does not know it.
    """

    sha: str
    committed_at: str | None = None
    subject: str | None = None
    data_digest: str | None = None


class GitHistory:
    """The history of one repository; empty where there is no git."""

    def __init__(self, root: Path | None) -> None:
        """Look at the repository whose top is root; None for no repository."""
        self._root = root

    @cached_property
    def is_there(self) -> bool:
        """Whether root is a git repository with a commit, and git can be run."""
        return self._git("rev-parse", "--verify", "--quiet", "HEAD") is not None

    @cached_property
    def is_shallow(self) -> bool:
        """Whether older commits were left out of this clone."""
        return (self._git("rev-parse", "--is-shallow-repository") or b"").strip() == b"true"

    def commits_named(self, name: str) -> list[str]:
        """Full hashes of what a branch, a tag, HEAD or the beginning of a hash names."""
        if HEX_PREFIX.fullmatch(name):
            found = self._git("rev-parse", f"--disambiguate={name}") or b""
            return self._only_commits(found.decode().split())
        sha = None if self._root is None else resolve_commit(self._root, name)
        return [] if sha is None else [sha]

    def commit(self, sha: str) -> Commit:
        """What git knows of a commit; only its name where git does not know it."""
        if not FULL_HASH.fullmatch(sha):
            return Commit(sha)
        command = ("show", "--no-patch", "--format=%cI%x00%s")
        shown = self._git(*command, revisions=[f"{sha}^{{commit}}"])
        if shown is None:
            return Commit(sha)
        committed_at, _, subject = shown.decode(errors="replace").strip().partition("\0")
        return Commit(sha, committed_at, subject, self.data_digest_at(sha))

    def data_digest_at(self, sha: str) -> str | None:
        """The md5 of data/ at a commit."""
        pointer = self.file_at(sha, POINTER)
        return None if pointer is None else digest_in_pointer(pointer.decode(errors="replace"))

    def file_at(self, sha: str, path: str) -> bytes | None:
        """The bytes of a file at a commit; None where there is none."""
        if not FULL_HASH.fullmatch(sha):
            return None
        return self._git("cat-file", "blob", revisions=[f"{sha}:{path}"])

    def is_same_at(self, sha: str, path: str, sha256: str | None) -> bool | None:
        """Whether a file had this sha256 at a commit; None when one of both is not known."""
        content = self.file_at(sha, path)
        if content is None or sha256 is None:
            return None
        return hashlib.sha256(content).hexdigest() == sha256

    @cached_property
    def first_parents(self) -> dict[str, str | None]:
        """The first parent by commit, newest commit first; None of a commit without one here."""
        lines = (self._git("rev-list", "--parents", "--all", "HEAD") or b"").decode().splitlines()
        return {sha: parents[0] if parents else None for sha, *parents in map(str.split, lines)}

    @cached_property
    def data_digests(self) -> dict[str, str]:
        """The md5 of data/ by commit, newest commit first; of all branches and tags."""
        shas = list(self.first_parents)
        lines = self._batch("--batch-check=%(objectname)", (f"{sha}:{POINTER}" for sha in shas))
        blobs = dict(zip(shas, lines, strict=True)) if len(lines) == len(shas) else {}
        digests = {blob: self._digest_in_blob(blob) for blob in set(blobs.values())}
        return {sha: digest for sha, blob in blobs.items() if (digest := digests[blob])}

    def _digest_in_blob(self, blob: str) -> str | None:
        if not FULL_HASH.fullmatch(blob):  # the commit has no such file
            return None
        content = self._git("cat-file", "blob", revisions=[blob]) or b""
        return digest_in_pointer(content.decode(errors="replace"))

    def _only_commits(self, shas: list[str]) -> list[str]:
        kinds = self._batch("--batch-check=%(objecttype)", shas)
        return [sha for sha, kind in zip(shas, kinds, strict=False) if kind == "commit"]

    def _batch(self, mode: str, names: Iterable[str]) -> list[str]:
        given = "".join(f"{name}\n" for name in names).encode()
        return (self._git("cat-file", mode, given=given) or b"").decode().splitlines()

    def _git(
        self, *arguments: str, revisions: Sequence[str] = (), given: bytes = b""
    ) -> bytes | None:
        """What git prints; None when it fails, is missing, or root is no repository."""
        if self._root is None:
            return None
        return git_output(self._root, *arguments, revisions=revisions, given=given)
