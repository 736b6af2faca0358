"""Two tiny stages of DVC between the real checks: `python -m tests.proofs.tiny_pipeline STAGE`.

DVC, its cache, the manifests and the checks are the real ones; the stages only copy bytes.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from vivero.integrity.entry import verified
from vivero.processes import run_stage

REPOSITORY = Path(__file__).parents[2]
DVC_YAML = """\
stages:
  prepare_data:
    cmd: {python} -m tests.proofs.tiny_pipeline prepare_data
    deps: [data]
    outs: [artifacts/prepare_data/images, artifacts/prepare_data/manifest.json]
    metrics: [artifacts/prepare_data/summary.json]
  train:
    cmd: {python} -m tests.proofs.tiny_pipeline train
    deps: [artifacts/prepare_data/images, artifacts/prepare_data/manifest.json]
    params: [seed]
    outs:
      - artifacts/train/model
      - artifacts/train/manifest.json
      - artifacts/train/run.json:
          meta: {{unsteady: true}}
"""


def prepare_data(root: Path) -> None:
    """Copy the shards, so that each of them is an artifact."""
    folder = root / "artifacts/prepare_data"
    shutil.copytree(root / "data", folder / "images")
    (folder / "summary.json").write_text(f"{os.getpid()}")


def train(root: Path) -> None:
    """Read every image, and say so."""
    sys.stderr.write("a training step\n")
    contents = [path.read_bytes() for path in sorted((root / "artifacts").rglob("*.parquet"))]
    folder = root / "artifacts/train"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model").write_bytes(b"".join(contents))
    (folder / "run.json").write_text(f"{os.getpid()}")


def make_pipeline(root: Path) -> Path:
    """Data of ten images that DVC has added, and both stages run once."""
    from tests.unit.data.tiny import rows, write_tiny  # imports torch, which the stages need not

    root.mkdir(parents=True, exist_ok=True)
    write_tiny(root / "data", {"train": rows("train", 8, 0), "test": rows("test", 2, 9)})
    (root / "params.yaml").write_text("seed: 0\n")
    (root / "dvc.yaml").write_text(DVC_YAML.format(python=sys.executable))
    dvc(root, "init", "--no-scm", "--quiet")
    dvc(root, "config", "core.site_cache_dir", str(root / ".dvc/site"))
    dvc(root, "add", "--quiet", "data")
    dvc(root, "repro", "--quiet")
    return root


def dvc(root: Path, *arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
    """Run DVC there, with our modules in reach of its stages."""
    return subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=root,
        env={**os.environ, "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'src'}"},
        capture_output=True,
        text=True,
        check=check,
    )


if __name__ == "__main__":
    body = {"prepare_data": prepare_data, "train": train}[sys.argv[1]]
    run_stage(sys.argv[1], verified(sys.argv[1], body))
