"""What a model was made from: data, code, settings, environment, seed.

Read once, when the training starts. Nothing here raises for a missing repository: what cannot be
known is None. No address, name or secret of the machine is read.
"""

import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from vivero.config.paths import PARAMS, data_dir
from vivero.files import sha256_of_dir, sha256_of_file

GIT_TIMEOUT_S = 20.0
TAG_PREFIX = "vivero."


@dataclass(frozen=True)
class Lineage:
    """Where a model comes from; None is what could not be known.

    Attributes:
        data_digest: The md5 that data.dvc holds; without data.dvc, "sha256:" and the hash of
            data/; None when there is neither.
        code_commit: The commit that was checked out; None without git.
        is_dirty: Whether tracked files differed from that commit; None without git.
        dvc_lock_sha256: Of dvc.lock, as it was when the training started.
        params_sha256: Of params.yaml.
        requirements_sha256: Of requirements.lock.
        seed: train.seed.
        weights_sha256: Of the safetensors file; None until there is one.
    """

    data_digest: str | None
    code_commit: str | None
    is_dirty: bool | None
    dvc_lock_sha256: str | None
    params_sha256: str | None
    requirements_sha256: str | None
    seed: int
    weights_sha256: str | None = None

    def with_weights(self, weights_sha256: str) -> Self:
        """The same lineage, of these weights."""
        return replace(self, weights_sha256=weights_sha256)

    def to_values(self) -> dict[str, Any]:
        """As lineage.json holds it."""
        return asdict(self)

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Self:
        """The lineage that `to_values` wrote; fields of other versions are left out."""
        return cls(**{field.name: values.get(field.name) for field in fields(cls)})  # type: ignore[arg-type]

    def to_tags(self) -> dict[str, str]:
        """As tags of a run or a model version, `vivero.` in front; what is None has no tag."""
        values = {name: value for name, value in asdict(self).items() if value is not None}
        return {f"{TAG_PREFIX}{name}": _as_text(value) for name, value in values.items()}

    def missing(self) -> list[str]:
        """Names of what a model that is to be promoted should know of itself, and does not.

        A missing git repository is allowed, so the commit is not among them.
        """
        needed = ("data_digest", "params_sha256", "weights_sha256")
        return [name for name in needed if getattr(self, name) is None]


def read_lineage(root: Path, seed: int) -> Lineage:
    """The lineage of what is trained in root now."""
    commit = _git(root, "rev-parse", "HEAD")
    changes = _git(root, "status", "--porcelain", "--untracked-files=no") if commit else None
    return Lineage(
        data_digest=data_digest(root),
        code_commit=commit,
        is_dirty=None if changes is None else bool(changes),
        dvc_lock_sha256=_sha256_if_there(root / "dvc.lock"),
        params_sha256=_sha256_if_there(root / PARAMS),
        requirements_sha256=_sha256_if_there(root / "requirements.lock"),
        seed=seed,
    )


def data_digest(root: Path) -> str | None:
    """The md5 of data/ that data.dvc holds; else "sha256:" and its own hash; else None."""
    pointer_path = root / "data.dvc"
    try:
        document = YAML(typ="safe").load(pointer_path.read_text(encoding="utf-8"))
        return str(document["outs"][0]["md5"])
    except (OSError, YAMLError, KeyError, IndexError, TypeError, UnicodeDecodeError):
        folder = data_dir(root)
        return f"sha256:{sha256_of_dir(folder)}" if folder.is_dir() else None


def _git(root: Path, *arguments: str) -> str | None:
    """What git says, stripped; None when there is no git, no repository or no commit."""
    try:
        result = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            timeout=GIT_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()


def _sha256_if_there(path: Path) -> str | None:
    return sha256_of_file(path) if path.is_file() else None


def _as_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
