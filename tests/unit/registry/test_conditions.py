"""Conditions: a commit that holds all, in a real git; an export that is the same model."""

import json
import math
import subprocess
from pathlib import Path

import pytest

from vivero.files import write_json
from vivero.integrity.hashing import md5_of_path
from vivero.registry.conditions import export_gate, tree_gate
from vivero.tracking.lineage import read_code_state

REPORT = "artifacts/evaluate/metrics.json"
DIRTY = {"trained": True, "evaluated": False, "judged": False}


def git(root: Path, *arguments: str) -> None:
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *who, *arguments], cwd=root, check=True, capture_output=True)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A repository whose commit names the bundle that lies there."""
    bundle = tmp_path / "artifacts/sample/bundle"
    (bundle / "unet").mkdir(parents=True)
    (bundle / "config.json").write_text("{}")
    (bundle / "unet/weights.safetensors").write_bytes(b"weights")
    (tmp_path / ".gitignore").write_text("artifacts\n")
    (tmp_path / "params.yaml").write_text("a: 1\n")
    write_json(tmp_path / REPORT, {"metrics": {}})
    lock(tmp_path, md5_of_path(bundle), md5_of_path(tmp_path / REPORT))
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", "--all")
    git(tmp_path, "commit", "--quiet", "--message", "all")
    return tmp_path


def lock(root: Path, bundle_md5: str, report_md5: str) -> None:
    (root / "dvc.lock").write_text(
        f"stages:\n  sample:\n    outs:\n    - path: artifacts/sample/bundle\n"
        f"      md5: {bundle_md5}\n  evaluate:\n    outs:\n    - path: {REPORT}\n"
        f"      md5: {report_md5}\n"
    )


def test_what_was_done_in_a_clean_tree_passes_without_git(tmp_path: Path):
    assert tree_gate(tmp_path, dict.fromkeys(DIRTY, False)).passed is True


@pytest.mark.parametrize("what", DIRTY)
@pytest.mark.parametrize("state", [True, None])
def test_training_evaluation_and_judgement_must_each_be_from_a_clean_tree(
    tmp_path: Path, what: str, state: bool | None
):
    gate = tree_gate(tmp_path, {**dict.fromkeys(DIRTY, False), what: state})
    assert gate.passed is None
    assert f"when it was {what}, " in gate.reason


def test_what_was_committed_since_with_its_lock_can_be_made_again(clone: Path):
    gate = tree_gate(clone, DIRTY)
    assert gate.passed is True
    assert "committed now" in gate.reason


@pytest.mark.parametrize("what", ["params", "lock", "bundle", "report", "other lock"])
def test_otherwise_a_dirty_tree_is_held(clone: Path, what: str):
    if what == "params":
        (clone / "params.yaml").write_text("a: 2\n")
    elif what == "bundle":
        (clone / "artifacts/sample/bundle/config.json").write_text("{ }")
    elif what == "report":
        write_json(clone / REPORT, {"metrics": {"a": 1}})
    else:
        lock(clone, "0" * 32 + ".dir", md5_of_path(clone / REPORT))
        if what == "other lock":
            git(clone, "commit", "--quiet", "--all", "--message", "of another model")
    gate = tree_gate(clone, DIRTY)
    assert gate.passed is None
    assert "commit what made it, with dvc.lock" in gate.reason


@pytest.mark.parametrize("name", ["src/new.py", "src/deep/new.py", "src/n\u00fcw module.py"])
@pytest.mark.parametrize("shows_new_files", ["normal", "no"])
def test_code_that_git_does_not_know_holds_it(clone: Path, name: str, shows_new_files: str):
    git(clone, "config", "status.showUntrackedFiles", shows_new_files)
    (clone / name).parent.mkdir(parents=True)
    (clone / name).write_text("a = 1\n")
    assert tree_gate(clone, DIRTY).passed is None
    assert read_code_state(clone).is_dirty is True
    git(clone, "add", name)
    git(clone, "commit", "--quiet", "--message", "with the new module")
    assert tree_gate(clone, DIRTY).passed is True
    assert read_code_state(clone).is_dirty is False


def test_a_new_file_outside_the_code_does_not_matter(clone: Path):
    (clone / "notes.txt").write_text("a\n")
    assert tree_gate(clone, DIRTY).passed is True


def test_without_an_export_there_is_nothing_to_compare(tmp_path: Path):
    assert export_gate(tmp_path, "w").passed is True


@pytest.mark.parametrize(
    ("parity", "passed", "said"),
    [
        (("w", 1e-5, 1e-4), True, "differs by 1e-05"),
        (("w", 1e-3, 1e-4), False, "allowed 0.0001"),
        (("v", 0, 1), None, "other weights"),
        (("w", None, 1), None, "no readable parity"),
        (("w", math.nan, 1), None, "no readable parity"),
        (("w", 5, math.inf), None, "no readable parity"),
    ],
)
def test_an_export_must_be_the_same_model(tmp_path: Path, parity, passed, said: str):
    values = dict(zip(("weights_sha256", "max_difference", "tolerance"), parity, strict=True))
    path = tmp_path / "artifacts/export/parity.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(values))  # another program wrote it: NaN is possible
    gate = export_gate(tmp_path, "w")
    assert gate.passed is passed
    assert said in gate.reason
