"""What dvc.yaml declares, and what dvc.lock, which git holds, says of it: the anchor of checks."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from vivero.errors import IntegrityError

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Stage:
    """One stage of dvc.yaml; paths are relative to the top of the repository.

    Attributes:
        name: Of the stage.
        inputs: What it reads of data/ and artifacts/.
        outs: What it makes and a manifest names.
        unsteady: What it makes and no manifest names, because it holds times or names of a server:
            its metrics, and outs with `meta: {unsteady: true}`.
    """

    name: str
    inputs: tuple[str, ...]
    outs: tuple[str, ...]
    unsteady: tuple[str, ...]

    @property
    def folder(self) -> str:
        """The one folder that it writes."""
        return f"artifacts/{self.name}"


@dataclass(frozen=True)
class Pipeline:
    """All stages by name, and DVC's md5 of every out that dvc.lock knows, by path."""

    stages: dict[str, Stage] = field(default_factory=dict)
    locked: dict[str, str] = field(default_factory=dict)


def read_pipeline(root: Path) -> Pipeline:
    """Read dvc.yaml and dvc.lock; a repository without them has no stages and no anchor.

    Raises:
        IntegrityError: When one of them is not what DVC writes.
    """
    declared, locked = _read(root / "dvc.yaml"), _read(root / "dvc.lock")
    try:
        stages = {name: _stage(name, block) for name, block in declared.items()}
        md5s = {
            out["path"]: str(out["md5"])
            for block in locked.values()
            for out in block.get("outs") or []
            if "md5" in out
        }
    except (AttributeError, KeyError, TypeError) as error:
        raise IntegrityError(
            f"dvc.yaml or dvc.lock in {root} has not the form that DVC writes ({error!r}); "
            f"`git diff dvc.yaml dvc.lock` shows what has changed"
        ) from error
    return Pipeline(stages, md5s)


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        document = YAML(typ="safe").load(path.read_text(encoding="utf-8")) or {}
        return dict(document.get("stages") or {})
    except (OSError, YAMLError, AttributeError, TypeError, ValueError) as error:
        raise IntegrityError(
            f"{path.name} cannot be read ({error}); `git diff {path.name}` shows what has changed, "
            f"`git checkout {path.name}` takes the version of the last commit"
        ) from error


def _stage(name: str, block: dict[str, Any]) -> Stage:
    steady: list[str] = []
    unsteady = [path for path, _ in _entries(block.get("metrics"))]
    for path, flags in _entries([*(block.get("outs") or []), *(block.get("plots") or [])]):
        is_unsteady = bool((flags.get("meta") or {}).get("unsteady"))
        (unsteady if is_unsteady else steady).append(path)
    manifest_path = f"artifacts/{name}/{MANIFEST}"
    return Stage(
        name,
        tuple(dep for dep in block.get("deps") or [] if dep.split("/")[0] in ("data", "artifacts")),
        tuple(path for path in steady if path != manifest_path),
        tuple(unsteady),
    )


def _entries(outs: list[Any] | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Outs as (path, flags): DVC writes them as a name, or as a mapping of the name to flags."""
    for out in outs or []:
        if isinstance(out, str):
            yield out, {}
        else:
            path, flags = next(iter(out.items()))
            yield path, flags or {}
