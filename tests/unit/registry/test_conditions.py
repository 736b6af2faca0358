"""Conditions: a commit that holds all, in a real git; an export that is the same model."""

import subprocess
from pathlib import Path

import pytest

from vivero.files import write_json
from vivero.integrity.hashing import md5_of_path
from vivero.registry.conditions import export_gate, tree_gate

DIRTY = {"code_commit": "c", "is_dirty": True}


def git(root: Path, *arguments: str) -> None:
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *who, *arguments], cwd=root, check=True, capture_output=True)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A repository whose commit names the bundle that lies there."""
    bundle = tmp_path / "artifacts/train/bundle"
    (bundle / "unet").mkdir(parents=True)
    (bundle / "config.json").write_text("{}")
    (bundle / "unet/weights.safetensors").write_bytes(b"weights")
    (tmp_path / ".gitignore").write_text("artifacts\n")
    (tmp_path / "params.yaml").write_text("a: 1\n")
    lock(tmp_path, md5_of_path(bundle))
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", "--all")
    git(tmp_path, "commit", "--quiet", "--message", "all")
    return tmp_path


def lock(root: Path, md5: str) -> None:
    (root / "dvc.lock").write_text(
        f"stages:\n  train:\n    outs:\n    - path: artifacts/train/bundle\n      md5: {md5}\n"
    )


def test_a_clean_tree_passes_without_git(tmp_path: Path):
    assert tree_gate(tmp_path, {"is_dirty": False}, is_required=True).passed is True


def test_what_was_committed_since_with_its_lock_can_be_made_again(clone: Path):
    gate = tree_gate(clone, DIRTY, is_required=True)
    assert gate.passed is True
    assert "committed now" in gate.reason


@pytest.mark.parametrize("what", ["params", "lock", "bundle", "other lock"])
def test_otherwise_a_dirty_tree_is_held(clone: Path, what: str):
    if what == "params":
        (clone / "params.yaml").write_text("a: 2\n")
    elif what == "bundle":
        (clone / "artifacts/train/bundle/config.json").write_text("{ }")
    else:
        lock(clone, "0" * 32 + ".dir")
        if what == "other lock":
            git(clone, "commit", "--quiet", "--all", "--message", "of another model")
    gate = tree_gate(clone, DIRTY, is_required=True)
    assert gate.passed is None
    assert "commit what made it, with dvc.lock" in gate.reason


def test_code_in_no_repository_is_held_unless_that_is_allowed(tmp_path: Path):
    unknown = {"code_commit": None, "is_dirty": None}
    gate = tree_gate(tmp_path, unknown, is_required=True)
    assert gate.passed is None
    assert "no commit is known" in gate.reason
    assert tree_gate(tmp_path, unknown, is_required=False).passed is True


def test_without_an_export_there_is_nothing_to_compare(tmp_path: Path):
    assert export_gate(tmp_path, "w").passed is True


@pytest.mark.parametrize(
    ("parity", "passed", "said"),
    [
        (("w", 1e-5, 1e-4), True, "differs by 1e-05"),
        (("w", 1e-3, 1e-4), False, "allowed 0.0001"),
        (("v", 0, 1), None, "other weights"),
        (("w", None, 1), None, "no readable parity"),
    ],
)
def test_an_export_must_be_the_same_model(tmp_path: Path, parity, passed, said: str):
    values = dict(zip(("weights_sha256", "max_difference", "tolerance"), parity, strict=True))
    write_json(tmp_path / "artifacts/export/parity.json", values)
    gate = export_gate(tmp_path, "w")
    assert gate.passed is passed
    assert said in gate.reason
