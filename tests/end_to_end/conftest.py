"""A small clone of this repository with a small data set, on which the whole job takes a minute."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML

from tests.conftest import REPOSITORY, TINY

BIN = Path(sys.executable).parent
NO_LIMITS = {  # a model of a few seconds is a bad one
    "judge.max_frechet_over_floor": 1.0e9,
    "judge.min_label_agreement": 0.0,
    "judge.max_copied_share": 1.0,
    "judge.max_near_equal_share": 1.0,
    "judge.min_recall_over_floor": 0.0,
    "judge.min_coverage_over_floor": 0.0,
    "judge.max_unusable_share": 1.0,
}


class Clone:
    """A folder with the tracked files of this repository, its own git history and data."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def run(self, *command: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """Run a program of the environment inside the clone."""
        env = {
            **os.environ,
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "PREFECT_HOME": str(self.root / "work" / "prefect"),
            "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "600",
            "VIVERO_NUM_THREADS": "1",
        }
        env.pop("MLFLOW_TRACKING_URI", None)
        result = subprocess.run(
            command,
            cwd=self.root,
            env=env,
            capture_output=True,
            text=True,
            timeout=1500,  # of a busy machine
        )
        if check and result.returncode:
            pytest.fail(
                f"{' '.join(command)} ended with {result.returncode}:\n"
                f"{result.stdout[-3000:]}\n{result.stderr[-3000:]}"
            )
        return result

    def git(self, *arguments: str) -> str:
        """Run git as somebody."""
        who = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
        return self.run("git", *who, *arguments).stdout

    def change(self, name: str, value: object) -> None:
        """Set one dotted name of params.yaml."""
        yaml = YAML(typ="rt")
        document = yaml.load((self.root / "params.yaml").read_text())
        *blocks, key = name.split(".")
        block = document
        for part in blocks:
            block = block[part]
        block[key] = value
        with (self.root / "params.yaml").open("w") as file:
            yaml.dump(document, file)


def draw_images(folder: Path, num_per_class: int = 60) -> None:
    """Small grey pictures of two kinds, each different: discs and bars on black."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:16, :16]
    for kind in ("bar", "disc"):
        (folder / kind).mkdir(parents=True)
        for index in range(num_per_class):
            x, y, size = rng.uniform(5, 11), rng.uniform(5, 11), rng.uniform(2, 5)
            inside = (
                (rows - y) ** 2 + (columns - x) ** 2 < size**2
                if kind == "disc"
                else np.abs(columns - x) < size / 2
            )
            pixels = np.where(inside, rng.uniform(120, 255), 0) + rng.uniform(0, 20, (16, 16))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(
                folder / kind / f"{index:03}.png"
            )


def make_clone(root: Path, images_dir: Path) -> Clone:
    """Copy what git tracks, make it tiny, import images_dir as its data, commit."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.splitlines():
        source = REPOSITORY / name
        if source.is_file() and name not in ("data.dvc", "dvc.lock"):
            target = root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    clone = Clone(root)
    for name, value in {**TINY, **NO_LIMITS}.items():
        clone.change(name, value)
    clone.git("init", "--quiet")
    clone.run("vivero", "data", "import", str(images_dir), "--out", "data")
    clone.run("dvc", "add", "data")
    clone.git("add", "--all")
    clone.git("commit", "--quiet", "--message", "tiny")
    return clone


@pytest.fixture(scope="session")
def images_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two class folders of pictures."""
    folder = tmp_path_factory.mktemp("pictures")
    draw_images(folder)
    return folder


@pytest.fixture(scope="session")
def finished_clone(tmp_path_factory: pytest.TempPathFactory, images_dir: Path) -> Clone:
    """A clone in which `vivero run` has done the whole job once."""
    clone = make_clone(tmp_path_factory.mktemp("clone"), images_dir)
    clone.first_output = clone.run("vivero", "run").stdout
    return clone
