"""What one machine made and pushed, another one does not make again, proposed or not."""

import subprocess
import sys
from pathlib import Path

import pytest

from infra.github.retrain import make_all, use_remote
from vivero.cli.planning import plan_stages

pytestmark = [
    pytest.mark.slow,  # two dozen starts of DVC
    pytest.mark.timeout(1800),
    # DVC 3.67 reads a trie in a way that pygtrie 2.6 calls deprecated.
    pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning"),
]
PIPELINE = """
stages:
  prepare_data:
    cmd: echo prepare_data >> {journal} && mkdir -p artifacts && cat data/* > artifacts/prepared
    deps: [data]
    outs: [artifacts/prepared]
  train:
    cmd: echo train >> {journal} && cat artifacts/prepared params.yaml > artifacts/model
    deps: [artifacts/prepared]
    params: [seed]
    outs: [artifacts/model]
"""


def run(root: Path, *command: str) -> None:
    subprocess.run(command, cwd=root, check=True, capture_output=True)


def dvc(root: Path, *arguments: str) -> None:
    run(root, sys.executable, "-m", "dvc", *arguments)


def commit(root: Path, message: str) -> None:
    who = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
    run(root, "git", "add", "--all")
    run(root, "git", *who, "commit", "--quiet", "--message", message)


@pytest.fixture
def origin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository whose dvc.lock is older than its params.yaml; a folder is the remote."""
    monkeypatch.setenv("VIVERO_DVC_REMOTE", str(tmp_path / "remote"))
    root = tmp_path / "origin"
    (root / "data").mkdir(parents=True)
    (root / "data/images").write_text("images\n")
    (root / "dvc.yaml").write_text(PIPELINE.format(journal=tmp_path / "journal"))
    (root / "params.yaml").write_text("seed: 1\n")
    run(root, "git", "init", "--quiet")
    dvc(root, "init", "--quiet")
    dvc(root, "add", "--quiet", "data")
    assert use_remote(root)
    make_all(root, shares=True, force=False)
    commit(root, "made with seed 1")
    (root / "params.yaml").write_text("seed: 2\n")
    commit(root, "seed 2")
    return root


def machine(origin: Path, name: str) -> Path:
    """A fresh clone, as a job has one, with its data brought in."""
    root = origin.parent / name
    run(origin.parent, "git", "clone", "--quiet", str(origin), str(root))
    assert use_remote(root)
    dvc(root, "pull", "--quiet", "data.dvc")
    return root


def journal(origin: Path) -> list[str]:
    return (origin.parent / "journal").read_text().split()


def test_the_second_night_brings_what_the_first_one_made(origin: Path):
    first = machine(origin, "first")
    assert [stage.name for stage in plan_stages(first)] == ["train"]
    make_all(first, shares=True, force=False)
    assert journal(origin) == ["prepare_data", "train", "train"]

    second = machine(origin, "second")  # the lock of the first night was not proposed
    assert [stage.name for stage in plan_stages(second)] == ["train"]
    make_all(second, shares=True, force=False)
    assert journal(origin) == ["prepare_data", "train", "train"]
    assert (second / "dvc.lock").read_bytes() == (first / "dvc.lock").read_bytes()
    assert (second / "artifacts/model").read_text() == "images\nseed: 2\n"
