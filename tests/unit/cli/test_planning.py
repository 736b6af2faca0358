"""The plan names the very stages that DVC then runs, though it sees neither data nor outputs."""

import contextlib
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from dvc.repo import Repo

from vivero.cli.planning import plan_stages
from vivero.errors import ConfigError

# DVC 3.67 reads a trie in a way that pygtrie 2.6 calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")

STAGES = """
stages:
  prepare:
    cmd: python join.py data/a.txt code.txt out_prepare.txt
    deps: [data, code.txt]
    outs: [out_prepare.txt]
  train:
    cmd: python join.py out_prepare.txt params.yaml out_train.txt
    deps: [out_prepare.txt]
    params: [train]
    outs: [out_train.txt]
  report:
    cmd: python join.py data/a.txt more.txt out_report.txt
    deps: [data, more.txt]
    outs: [out_report.txt]
  judge:
    cmd: python join.py out_train.txt out_report.txt out_judge.txt
    deps: [out_train.txt, out_report.txt]
    outs: [out_judge.txt]
"""
JOIN = """import sys
from pathlib import Path
*sources, target = map(Path, sys.argv[1:])
target.write_text("".join(source.read_text() for source in sources))
"""


def edit(name: str, text: str) -> Callable[[Path], None]:
    return lambda root: (root / name).write_text(text)


def change_command(root: Path) -> None:
    path = root / "dvc.yaml"
    path.write_text(
        path.read_text().replace("python join.py data/a.txt more", "python join.py more")
    )


def change_data(root: Path) -> None:
    (root / "data/a.txt").write_text("more images\n")
    with contextlib.chdir(root), Repo() as repo:
        repo.add("data")


def forget_the_lock(root: Path) -> None:
    (root / "dvc.lock").unlink()


CHANGES = {
    "nothing": (lambda _root: None, []),
    "data": (change_data, ["prepare", "train", "report", "judge"]),
    "code": (edit("code.txt", "new code\n"), ["prepare", "train", "judge"]),
    "settings": (edit("params.yaml", "train: {rate: 2}\n"), ["train", "judge"]),
    "settings of nobody": (edit("params.yaml", "train: {rate: 1}\nother: 3\n"), []),
    "command": (change_command, ["report", "judge"]),
    "lock": (forget_the_lock, ["prepare", "train", "report", "judge"]),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository in which every stage is up to date."""
    root = tmp_path_factory.mktemp("repository")
    (root / "data").mkdir()
    files = {"data/a.txt": "images\n", "code.txt": "code\n", "more.txt": "more\n"}
    files |= {"params.yaml": "train: {rate: 1}\n", "dvc.yaml": STAGES, "join.py": JOIN}
    for name, text in files.items():
        (root / name).write_text(text)
    with contextlib.chdir(root), Repo.init(no_scm=True) as repo:
        repo.add("data")
        repo.reproduce()
    return root


def without_data(source: Path, target: Path) -> Path:
    """What git would hold of a repository: no data, no outputs, no cache."""
    left_out = shutil.ignore_patterns("data", "out_*", "cache", "tmp")
    shutil.copytree(source, target, ignore=left_out)
    return target


@pytest.mark.parametrize("change", CHANGES)
def test_it_names_what_dvc_runs(finished: Path, tmp_path: Path, change: str):
    make_change, expected = CHANGES[change]
    full = tmp_path / "full"
    shutil.copytree(finished, full)
    make_change(full)

    planned = plan_stages(without_data(full, tmp_path / "fresh"))

    with contextlib.chdir(full), Repo() as repo:
        executed = {stage.name for stage in repo.reproduce() if stage.cmd}
    assert {stage.name for stage in planned} == set(expected)
    if change != "lock":  # what DVC finds in its run cache it need not run
        assert executed == set(expected)
    assert all(stage.reasons for stage in planned)


def test_each_stage_comes_after_what_it_depends_on_with_its_reasons(finished: Path, tmp_path: Path):
    fresh = without_data(finished, tmp_path / "fresh")
    (fresh / "params.yaml").write_text("train: {rate: 2}\n")
    pointer = fresh / "data.dvc"
    pointer.write_text(pointer.read_text().replace("md5: ", "md5: 0000")[:-1])

    planned = plan_stages(fresh)

    assert [stage.name for stage in planned] == ["prepare", "train", "report", "judge"]
    reasons = {stage.name: stage.reasons for stage in planned}
    assert reasons["prepare"] == ("data is not the one that dvc.lock was made from",)
    assert reasons["train"] == ("train is modified in params.yaml", "prepare runs")
    assert reasons["judge"] == ("train runs", "report runs")


def test_it_leaves_the_repository_as_it_was(finished: Path, tmp_path: Path):
    fresh = without_data(finished, tmp_path / "fresh")
    (fresh / "code.txt").write_text("new code\n")
    subprocess.run(["git", "init", "--quiet", str(fresh)], check=True)
    files = {path: path.read_bytes() for path in fresh.iterdir() if path.is_file()}
    plan_stages(fresh)
    assert {path: path.read_bytes() for path in fresh.iterdir() if path.is_file()} == files


def test_a_folder_without_dvc_is_a_clear_error(tmp_path: Path):
    with pytest.raises(ConfigError, match="the plan cannot be made"):
        plan_stages(tmp_path)
