"""A retraining as the workflows do it, from plan to promotion, with a folder for the cloud."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from PIL import Image, ImageOps

from infra.github.retrain import take_in
from tests.end_to_end.conftest import Clone, draw_images, make_clone
from vivero.errors import StageError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def module(clone: Clone, name: str, *arguments: str) -> None:
    """As `make NAME` would; stages may take their time on a busy machine."""
    command = [sys.executable, "-m", f"infra.github.{name}", *arguments]
    env = {**os.environ, "VIVERO_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=clone.root, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


def draw_incoming(folder: Path, pictures: Path) -> Path:
    """New images in the form of those that are there: each picture's negative."""
    for path in pictures.rglob("*.png"):
        target = folder / path.relative_to(pictures)
        target.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as picture:
            ImageOps.invert(picture).save(target)
    return folder


def outputs(path: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in path.read_text().splitlines())


@pytest.fixture
def key_pem(tmp_path: Path) -> str:
    private = ec.generate_private_key(ec.SECP256R1())
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)
    return private.private_bytes(*form, serialization.NoEncryption()).decode()


def trust(root: Path, pem: str) -> None:
    public = serialization.load_pem_private_key(pem.encode(), None).public_key()
    form = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (root / "trusted_keys").mkdir(exist_ok=True)
    (root / "trusted_keys/github.pem").write_bytes(public.public_bytes(*form))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    draw_images(folder)
    return folder


def test_new_images_move_data_dvc_only_if_they_are_valid(
    tmp_path: Path,
    pictures: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    clone = make_clone(tmp_path / "clone", pictures)
    path, params = clone.root / "data.dvc", clone.root / "params.yaml"
    data_before, params_before = path.read_text(), params.read_text()
    monkeypatch.setenv("VIVERO_INCOMING", str(draw_incoming(tmp_path / "incoming", pictures)))
    clone.change("validate_data.min_images_per_class", 100_000)
    with pytest.raises(StageError, match="'validate_data' failed"):
        take_in(clone.root)
    assert "the data contract is broken" in capfd.readouterr().err
    assert path.read_text() == data_before
    params.write_text(params_before)
    assert clone.git("status", "--porcelain") == ""  # nor is the new one staged

    take_in(clone.root)
    assert path.read_text() != data_before
    last = clone.git("show", "--format=%s", "--name-only", "HEAD").split()
    assert " ".join(last) == "data.dvc: new images data.dvc"
    assert clone.git("status", "--porcelain") == ""
    summary = json.loads((clone.root / "artifacts/validate_data/summary.json").read_text())
    assert summary["num_images"] == 240  # 120 that were there, 120 that came in


def test_from_the_plan_to_the_promotion(
    tmp_path: Path, pictures: Path, key_pem: str, monkeypatch: pytest.MonkeyPatch
):
    clone = make_clone(tmp_path / "clone", pictures)
    trust(clone.root, key_pem)
    clone.git("add", "trusted_keys")
    clone.git("commit", "--quiet", "--message", "Trust the key of the workflows")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "planned"))
    module(clone, "plan")
    assert outputs(tmp_path / "planned")["must_run"] == "true"

    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "trained"))
    monkeypatch.setenv("VIVERO_DVC_REMOTE", str(tmp_path / "remote"))
    monkeypatch.setenv("HAS_NEW_DATA", "true")
    monkeypatch.setenv("VIVERO_INCOMING", str(draw_incoming(tmp_path / "incoming", pictures)))
    data_before = (clone.root / "data.dvc").read_bytes()
    module(clone, "retrain")
    monkeypatch.delenv("HAS_NEW_DATA")
    early = clone.run("python", "-m", "infra.github.register", check=False)
    assert early.returncode == 1
    assert "waits for its signature; run `make sign`" in early.stderr
    monkeypatch.setenv("VIVERO_SIGNING_KEY_PEM", key_pem)
    module(clone, "sign")
    monkeypatch.delenv("VIVERO_SIGNING_KEY_PEM")
    module(clone, "register")
    assert outputs(tmp_path / "trained") == {"verdict": "first"}
    assert "champion" not in clone.run("vivero", "models").stdout
    proposal = clone.root / "work/proposal"
    version = json.loads((proposal / "registered.json").read_text())["version"]
    assert (proposal / "dvc.lock").read_bytes() == (clone.root / "dvc.lock").read_bytes()
    assert (proposal / "data.dvc").read_bytes() == (clone.root / "data.dvc").read_bytes()
    assert (proposal / "data.dvc").read_bytes() != data_before
    assert "Cache and remote 'runs' are in sync." in clone.run("dvc", "status", "--cloud").stdout

    clone.git("add", "--force", "dvc.lock")
    clone.git("commit", "--quiet", "--message", "merged")
    fresh = Clone(tmp_path / "fresh")
    clone.git("clone", "--quiet", str(clone.root), str(fresh.root))
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "again"))
    module(fresh, "plan")
    assert outputs(tmp_path / "again")["must_run"] == "false"

    monkeypatch.setenv("VERSION", version)
    monkeypatch.setenv("EXPECT", "none")
    monkeypatch.setenv("REASON", "the first of all")
    module(clone, "alias", "promote")
    assert "champion" in clone.run("vivero", "models").stdout
    assert "the first of all" in clone.run("vivero", "models", "--history").stdout
    module(clone, "alias", "promote")  # a job that is run again changes nothing
    monkeypatch.setenv("EXPECT", "9")
    refused = clone.run("python", "-m", "infra.github.alias", "rollback", check=False)
    assert refused.returncode != 0
    assert "9" in refused.stderr
    assert clone.run("vivero", "models", "--history").stdout.count("promote") == 1
