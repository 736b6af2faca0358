"""Gates about how a candidate was made: can a commit make it again, is its export the same?"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from vivero.config.paths import artifacts_dir
from vivero.files import read_json
from vivero.integrity.hashing import md5_of_path
from vivero.registry.differences import Gate
from vivero.tracking.git import git_text

BUNDLE = "artifacts/train/bundle"
TREE, EXPORT = "clean tree", "export parity"


def tree_gate(root: Path, lineage: Mapping[str, Any], is_required: bool) -> Gate:
    """Whether a commit holds all that made the model.

    A model of a dirty tree passes later, when the changes were committed and that commit's dvc.lock
    names the very bundle.

    Args:
        root: Top of the repository.
        lineage: Of the model; `is_dirty` is of the moment when its training began.
        is_required: judge.require_clean_tree.
    """
    if not is_required:
        return _condition(TREE, True, "a clean tree is not asked for (judge.require_clean_tree)")
    if lineage.get("is_dirty") is False:
        return _condition(TREE, True, "it was trained from a clean tree")
    if commit_reproduces(root):
        return _condition(
            TREE, True, "what was changed when it was trained is committed now, with its dvc.lock"
        )
    was = (
        "tracked files differed from the commit"
        if lineage.get("is_dirty")
        else "no commit is known of its code"
    )
    return _condition(
        TREE,
        None,
        f"when it was trained {was}, so nobody can make it again: commit what made it, with "
        f"dvc.lock, then `vivero judge`; judge.require_clean_tree: false lets it pass",
    )


def commit_reproduces(root: Path) -> bool:
    """Whether tracked files are as in HEAD, and dvc.lock there names the bundle that lies here."""
    status = git_text(root, "status", "--porcelain", "--untracked-files=no")
    locked = git_text(root, "show", "HEAD:./dvc.lock")
    if status is None or status or locked is None or not (root / BUNDLE).is_dir():
        return False
    try:
        outs = YAML(typ="safe").load(locked)["stages"]["train"]["outs"]
        named = {out["path"]: out["md5"] for out in outs}
    except (YAMLError, KeyError, TypeError):
        return False
    return named.get(BUNDLE) == md5_of_path(root / BUNDLE)


def export_gate(root: Path, weights_sha256: str | None) -> Gate:
    """Whether an exported model, where there is one, makes the same images.

    artifacts/export/parity.json says: `weights_sha256` of the model that was exported,
    `max_difference` between the two models' outputs, and the `tolerance` for it.
    """
    folder = artifacts_dir(root, "export")
    if not folder.exists():
        return _condition(EXPORT, True, "there is no export, so nothing to compare")
    try:
        parity = read_json(folder / "parity.json")
        of, found, most = (
            parity["weights_sha256"],
            float(parity["max_difference"]),
            float(parity["tolerance"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return _condition(
            EXPORT,
            None,
            "artifacts/export has no readable parity.json; export again, or remove the folder",
        )
    if of != weights_sha256:
        return _condition(
            EXPORT, None, "artifacts/export is of other weights; export again, or remove the folder"
        )
    passed = found <= most
    said = f"the export differs by {found:.3g} at most, allowed {most:.3g}"
    return Gate(EXPORT, passed, found, most, said, "condition")


def _condition(name: str, passed: bool | None, reason: str) -> Gate:
    return Gate(name, passed, None, None, reason, "condition")
