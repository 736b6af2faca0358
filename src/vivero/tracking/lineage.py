"""Lineage: which data, code, settings and seed something was made from.

Read once, when a training starts; carried by the bundle, and from there by every report, model
version and image. Nothing in it is secret: no address, no user, no path.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from vivero.config.paths import PARAMS
from vivero.files import sha256_of_file
from vivero.integrity.records import OBJECT_NAME
from vivero.tracking.git import git_text

GIT_TIMEOUT_S = 20


@dataclass(frozen=True)
class CodeState:
    """The code in a working tree; None where it is not known.

    Attributes:
        code_commit: Commit that is checked out.
        is_dirty: Whether a tracked file other than dvc.lock differs from that commit, or a file
            below src is not in git at all.
    """

    code_commit: str | None
    is_dirty: bool | None

    def as_json(self) -> dict[str, Any]:
        """Plain values by name."""
        return asdict(self)


def read_code_state(root: Path) -> CodeState:
    """The code of this repository now; never fails."""
    commit = git_text(root, "rev-parse", "HEAD", timeout_s=GIT_TIMEOUT_S)
    # DVC rewrites dvc.lock as the stages run; what it says is recorded by its own hash.
    # The options hold whatever the settings of git: new files are listed, names are not quoted.
    changed = ("status", "--porcelain", "-z", "--untracked-files=all", "--", ".", ":!dvc.lock")
    status = None if commit is None else git_text(root, *changed, timeout_s=GIT_TIMEOUT_S)
    return CodeState(commit, None if status is None else _has_changes(status))


@dataclass(frozen=True)
class Lineage:
    """Where a model came from; None where it is not known.

    Attributes:
        data_digest: The md5 that data.dvc holds for data/.
        code_commit: Commit of the code.
        is_dirty: Whether a tracked file differed from that commit, or code was not in git at all.
        dvc_lock_sha256: Hash of dvc.lock as it was when the training started.
        params_sha256: Hash of params.yaml.
        requirements_sha256: Hash of requirements.lock.
        seed: Seed of the training.
        weights_sha256: Hash of the weights file; None before there is one.
    """

    data_digest: str | None
    code_commit: str | None
    is_dirty: bool | None
    dvc_lock_sha256: str | None
    params_sha256: str | None
    requirements_sha256: str | None
    seed: int
    weights_sha256: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain values by name."""
        return asdict(self)

    def as_tags(self) -> dict[str, str]:
        """What is known, as text, for MLflow's tags."""
        known = {name: value for name, value in asdict(self).items() if value is not None}
        return {f"lineage.{name}": str(value) for name, value in known.items()}


def read_lineage(root: Path, seed: int) -> Lineage:
    """The lineage of what is made from this repository now; never fails.

    A dirty tree is allowed and recorded; without git, the commit is None.
    """
    code = read_code_state(root)
    return Lineage(
        data_digest=data_digest(root),
        code_commit=code.code_commit,
        is_dirty=code.is_dirty,
        dvc_lock_sha256=_sha256(root / "dvc.lock"),
        params_sha256=_sha256(root / PARAMS),
        requirements_sha256=_sha256(root / "requirements.lock"),
        seed=seed,
    )


def _has_changes(status: str) -> bool:
    """Whether `git status --porcelain -z` names a changed file, or a new one among the code."""
    entries = [entry for entry in status.split("\0") if entry]
    return any(not entry.startswith("??") or entry.startswith("?? src/") for entry in entries)


def data_digest(root: Path) -> str | None:
    """The md5 of data/ in data.dvc; None when data/ is not versioned yet."""
    try:
        return digest_in_pointer((root / "data.dvc").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return None


def digest_in_pointer(text: str) -> str | None:
    """The md5 that a file of DVC such as data.dvc names; None where it names none."""
    try:
        digest = str(YAML(typ="safe").load(text)["outs"][0]["md5"])
        return digest if OBJECT_NAME.fullmatch(digest) else None
    except (YAMLError, KeyError, IndexError, TypeError):
        return None


def _sha256(path: Path) -> str | None:
    return sha256_of_file(path) if path.is_file() else None
