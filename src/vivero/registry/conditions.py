"""Gates about how a candidate was made: can a commit make it again, is its export the same?"""

import math
from collections.abc import Mapping
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from vivero.config.paths import artifacts_dir
from vivero.files import read_json
from vivero.integrity.hashing import md5_of_path
from vivero.registry.differences import Gate
from vivero.tracking.git import git_text
from vivero.tracking.lineage import read_code_state

STAGES = ("sample", "evaluate")
JUDGED = ("artifacts/sample/bundle", "artifacts/evaluate/metrics.json")
TREE, EXPORT = "clean tree", "export parity"
UNREADABLE_PARITY = (
    "artifacts/export has no readable parity.json; export again, or remove the folder"
)
CLEAN = "it was trained, evaluated and judged from a clean tree"


def tree_gate(root: Path, is_dirty: Mapping[str, bool | None]) -> Gate:
    """Whether a commit holds all the code that made the candidate and judged it.

    A model of a dirty tree passes later, when the changes were committed and that commit's dvc.lock
    names the very bundle and report.

    Args:
        root: Top of the repository.
        is_dirty: By what was done ("trained", "evaluated", "judged"), whether the code differed
            from the commit at that moment (`read_code_state`); None where no commit is known.
    """
    not_clean = {what: dirty for what, dirty in is_dirty.items() if dirty is not False}
    if not not_clean:
        return _condition(TREE, True, CLEAN)
    if commit_reproduces(root):
        return _condition(
            TREE, True, "what was changed at that time is committed now, with its dvc.lock"
        )
    was = "; ".join(
        f"when it was {what}, "
        + ("the code differed from the commit" if dirty else "no commit of the code was known")
        for what, dirty in not_clean.items()
    )
    return _condition(
        TREE,
        None,
        f"{was}, so nobody can make and judge it again: commit what made it, with dvc.lock, then "
        f"`vivero judge`; judge.require_clean_tree: false lets it pass",
    )


def commit_reproduces(root: Path) -> bool:
    """Whether the tree is as in HEAD, and HEAD's dvc.lock names the present model and report.

    A tree is dirty as `read_code_state` defines it, or when dvc.lock is not committed.
    """
    if read_code_state(root).is_dirty is not False:
        return False
    lock_changes = git_text(root, "status", "--porcelain", "--", "dvc.lock")
    locked = git_text(root, "show", "HEAD:./dvc.lock")
    if lock_changes != "" or locked is None:
        return False
    try:
        stages = YAML(typ="safe").load(locked)["stages"]
        named = {out["path"]: out["md5"] for name in STAGES for out in stages[name]["outs"]}
    except (YAMLError, KeyError, TypeError):
        return False
    return all(
        (root / path).exists() and named.get(path) == md5_of_path(root / path) for path in JUDGED
    )


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
        return _condition(EXPORT, None, UNREADABLE_PARITY)
    if of != weights_sha256:
        return _condition(
            EXPORT, None, "artifacts/export is of other weights; export again, or remove the folder"
        )
    if not (math.isfinite(found) and math.isfinite(most)):
        return _condition(EXPORT, None, UNREADABLE_PARITY)
    passed = found <= most
    said = f"the export differs by {found:.3g} at most, allowed {most:.3g}"
    return Gate(EXPORT, passed, found, most, said, "condition")


def _condition(name: str, passed: bool | None, reason: str) -> Gate:
    return Gate(name, passed, None, None, reason, "condition")


NO_TREE_GATE = _condition(TREE, True, "a clean tree is not asked for (judge.require_clean_tree)")
