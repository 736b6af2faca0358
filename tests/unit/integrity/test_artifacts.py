"""Manifests: what they hold, what they find, and that equal outputs make equal ones."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from vivero.errors import IntegrityError
from vivero.files import read_json
from vivero.integrity.artifacts import damaged_artifacts
from vivero.integrity.entry import inputs_of, verify_inputs
from vivero.integrity.hashing import md5_of_path
from vivero.integrity.manifests import write_manifest
from vivero.integrity.pipeline import Pipeline, read_pipeline

DVC_YAML = """\
stages:
  make:
    cmd: make
    outs:
      - artifacts/make/images
      - artifacts/make/manifest.json
      - artifacts/make/journal:
          meta: {unsteady: true}
    metrics: [artifacts/make/summary.json]
    plots:
      - artifacts/make/curve.csv: {x: step}
  use:
    cmd: use
    deps: [artifacts/make/images, artifacts/make/manifest.json, artifacts/make/journal, src/code.py]
    outs: [artifacts/use/result]
"""
MADE = ("images", "manifest.json", "journal", "summary.json", "curve.csv")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository in which the stage `make` has run, and DVC has locked what it made."""
    folder = tmp_path / "artifacts/make"
    (folder / "images/train").mkdir(parents=True)
    (folder / "images/train/a.npy").write_bytes(bytes(range(256)))
    (folder / "images/card.json").write_text("{}")
    for name in ("journal", "summary.json", "curve.csv"):
        (folder / name).write_text(name)
    (tmp_path / "dvc.yaml").write_text(DVC_YAML)
    (tmp_path / "params.yaml").touch()
    write_manifest(tmp_path, read_pipeline(tmp_path).stages["make"])
    lock(tmp_path)
    return tmp_path


def lock(root: Path) -> None:
    made = root / "artifacts/make"
    entries = "".join(
        f"    - path: artifacts/make/{name}\n      md5: {md5_of_path(made / name)}\n"
        for name in MADE
    )
    (root / "dvc.lock").write_text(f"schema: '2.0'\nstages:\n  make:\n    outs:\n{entries}")


def found(root: Path) -> list[str]:
    pipeline = read_pipeline(root)
    return [d.path for d in damaged_artifacts(root, pipeline, inputs_of(root, "use", pipeline))]


def test_a_manifest_names_every_file_but_those_that_hold_times(root: Path):
    files = read_json(root / "artifacts/make/manifest.json")["files"]
    assert list(files) == ["curve.csv", "images/card.json", "images/train/a.npy"]
    assert files["images/card.json"]["num_bytes"] == 2


def test_equal_outputs_make_equal_manifests_whatever_the_times_are(root: Path):
    path = root / "artifacts/make/manifest.json"
    before = path.read_bytes()
    (root / "artifacts/make/summary.json").write_text("later")
    (root / "artifacts/make/journal").write_text("later")
    write_manifest(root, read_pipeline(root).stages["make"])
    assert path.read_bytes() == before


def test_what_is_whole_passes(root: Path):
    assert found(root) == []
    verify_inputs(root, "use")


def change(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("strike", "named"),
    [
        (lambda made: change(made / "images/train/a.npy"), "artifacts/make/images/train/a.npy"),
        (lambda made: (made / "images/card.json").unlink(), "artifacts/make/images/card.json"),
        (lambda made: (made / "images/more").touch(), "artifacts/make/images/more"),
        (lambda made: shutil.rmtree(made / "images"), "artifacts/make/images/card.json"),
        (lambda made: change(made / "manifest.json"), "artifacts/make/manifest.json"),
        (lambda made: (made / "manifest.json").unlink(), "artifacts/make/manifest.json"),
        (lambda made: (made / "manifest.json").write_text("[]"), "artifacts/make/manifest.json"),
        (lambda made: change(made / "journal"), "artifacts/make/journal"),
    ],
)
def test_what_is_not_is_named(root: Path, strike: Callable[[Path], None], named: str):
    strike(root / "artifacts/make")
    assert named in found(root)
    with pytest.raises(IntegrityError) as caught:
        verify_inputs(root, "use")
    assert named in str(caught.value)
    assert "vivero verify --mend" in str(caught.value)


def test_a_file_and_its_manifest_changed_together_are_held_to_dvc_lock(root: Path):
    change(root / "artifacts/make/images/train/a.npy")
    write_manifest(root, read_pipeline(root).stages["make"])
    assert "artifacts/make/manifest.json" in found(root)


def test_a_stage_that_ran_without_dvc_is_held_to_its_manifest_alone(root: Path):
    (root / "dvc.lock").unlink()
    assert found(root) == []
    change(root / "artifacts/make/images/train/a.npy")
    assert found(root) == ["artifacts/make/images/train/a.npy"]


def test_a_command_outside_dvc_is_entered_over_all_artifacts_that_are_here(root: Path):
    verify_inputs(root, "judge")
    change(root / "artifacts/make/curve.csv")
    with pytest.raises(IntegrityError, match=r"curve\.csv"):
        verify_inputs(root, "judge")


def test_a_stage_that_did_not_make_what_it_should_leaves_no_manifest(root: Path):
    (root / "artifacts/make/curve.csv").unlink()
    with pytest.raises(IntegrityError, match=r"without making artifacts/make/curve\.csv"):
        write_manifest(root, read_pipeline(root).stages["make"])


def test_a_repository_without_a_pipeline_has_nothing_to_check(tmp_path: Path):
    assert read_pipeline(tmp_path) == Pipeline()
    verify_inputs(tmp_path, "use")


@pytest.mark.parametrize(
    "text", ["stages: 3", "stages:\n  make: 3\n", "{", "stages:\n  make: {outs: [{md5: a}]}"]
)
def test_a_lock_that_is_none_is_named(root: Path, text: str):
    (root / "dvc.lock").write_text(text)
    with pytest.raises(IntegrityError, match=r"git diff .*dvc\.lock"):
        read_pipeline(root)
