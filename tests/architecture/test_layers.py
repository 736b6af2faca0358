"""The layers and vendor doors of pyproject.toml hold, and would not if an import went upwards."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
LINT = Path(sys.executable).parent / "lint-imports"


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(LINT), "--no-cache", "--config", str(folder / "pyproject.toml")],
        cwd=folder,
        env={"PYTHONPATH": str(folder / "src"), "PATH": str(LINT.parent)},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_layers_hold():
    result = lint(REPOSITORY)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("module", "line", "broken"),
    [
        ("diffusion/schedules.py", "import vivero.training.loop", "Layers import downwards only"),
        ("diffusion/haar.py", "import vivero.models.build", "Layers import downwards only"),
        ("data/batches.py", "import vivero.diffusion.haar", "Of the layer above it, only models"),
        ("models/build.py", "import vivero.data.split", "Layers import downwards only"),
        ("training/loop.py", "import mlflow", "One door per vendor: MLflow"),
        ("training/loop.py", "import ray", "One door per vendor: Ray"),
        ("stages/evaluate.py", "import timm", "One door per vendor: clean-fid"),
        ("diffusion/samplers.py", "import pathlib", "The mathematics of diffusion is pure"),
        ("stages/train.py", "import prefect", "Prefect stays outside the package"),
    ],
)
def test_a_wrong_import_is_seen(tmp_path: Path, module: str, line: str, broken: str):
    shutil.copytree(REPOSITORY / "src", tmp_path / "src")
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    path = tmp_path / "src/vivero" / module
    path.write_text(f"{path.read_text()}\n{line}\n")

    result = lint(tmp_path)

    assert result.returncode != 0
    assert any(row.startswith(broken) and "BROKEN" in row for row in result.stdout.splitlines())
