"""A retraining as the workflows do it, from plan to promotion, with a folder for the cloud."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.end_to_end.conftest import Clone, draw_images, make_clone

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def module(clone: Clone, name: str, *arguments: str) -> None:
    """As `make NAME` would; stages may take their time on a busy machine."""
    command = [sys.executable, "-m", f"infra.github.{name}", *arguments]
    env = {**os.environ, "VIVERO_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=clone.root, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


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


def test_from_the_plan_to_the_promotion(
    tmp_path: Path, key_pem: str, monkeypatch: pytest.MonkeyPatch
):
    draw_images(tmp_path / "pictures")
    clone = make_clone(tmp_path / "clone", tmp_path / "pictures")
    trust(clone.root, key_pem)
    clone.git("add", "trusted_keys")
    clone.git("commit", "--quiet", "--message", "Trust the key of the workflows")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "planned"))
    module(clone, "plan")
    assert outputs(tmp_path / "planned")["must_run"] == "true"

    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "trained"))
    monkeypatch.setenv("VIVERO_DVC_REMOTE", str(tmp_path / "remote"))
    monkeypatch.setenv("VIVERO_SIGNING_KEY_PEM", key_pem)
    module(clone, "retrain")
    monkeypatch.delenv("VIVERO_SIGNING_KEY_PEM")
    assert outputs(tmp_path / "trained") == {"verdict": "first"}
    assert "champion" not in clone.run("vivero", "models").stdout
    proposal = clone.root / "work/proposal"
    version = json.loads((proposal / "registered.json").read_text())["version"]
    assert (proposal / "dvc.lock").read_bytes() == (clone.root / "dvc.lock").read_bytes()
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
