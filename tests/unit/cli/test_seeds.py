"""`vivero seeds` without its trainings: what it refuses, and what a failed seed changes."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPOSITORY
from vivero.cli import seeds
from vivero.cli.seeds import run_seeds
from vivero.errors import ConfigError


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git repository with settings, which we stand in."""
    (tmp_path / "params.yaml").write_text((REPOSITORY / "params.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", "--all")
    git(tmp_path, "commit", "--quiet", "--message", "first")
    return tmp_path


def git(root: Path, *arguments: str) -> None:
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *who, *arguments], cwd=root, check=True)


class FakeDvc:
    """Trains nothing: the figures are functions of the seed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, failing: set[int]) -> None:
        self.failing, self.experiments = failing, set[str]()
        monkeypatch.setattr(seeds, "ensure_data", lambda root: 0.0)
        monkeypatch.setattr(seeds, "_reproduce", self.reproduce)
        monkeypatch.setattr(seeds, "_summary", self.summary)
        monkeypatch.setattr(seeds, "_remove", lambda root, name: self.experiments.discard(name))

    def reproduce(self, root: Path, experiment: str, seed: int, stage: str) -> int:
        if seed in self.failing:
            return 255
        self.experiments.add(experiment)
        return 0

    def summary(self, root: Path, experiment: str, stage: str) -> dict[str, Any]:
        seed = int(experiment.rpartition("-")[2])
        return {"stage": stage, "seconds": 3.5, "num_images": 7, "fd": 2.0 + seed}


def test_all_seeds_count_and_their_experiments_are_removed(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    dvc = FakeDvc(monkeypatch, failing=set())
    assert run_seeds([0, 1, 2], "mine", "evaluate", keep=False) == 0
    report = json.loads((root / "work/seeds/mine.json").read_text())
    assert list(report["figures"]) == ["fd"]
    assert report["figures"]["fd"]["mean"]["value"] == 3.0
    assert report["figures"]["fd"]["std"] == pytest.approx(1.0)
    assert report["figures"]["fd"]["values"] == {"0": 2.0, "1": 3.0, "2": 4.0}
    assert (root / "work/seeds/mine.png").exists()
    assert "3 ± 2.5" in capsys.readouterr().out
    assert not dvc.experiments


def test_experiments_stay_when_asked_for(root: Path, monkeypatch: pytest.MonkeyPatch):
    dvc = FakeDvc(monkeypatch, failing=set())
    run_seeds([0, 1], "mine", "evaluate", keep=True)
    assert dvc.experiments == {"mine-0", "mine-1"}


def test_a_failed_seed_is_named_and_the_others_count(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    FakeDvc(monkeypatch, failing={1})
    assert run_seeds([0, 1, 2], "mine", "evaluate", keep=False) == 1
    report = json.loads((root / "work/seeds/mine.json").read_text())
    assert (report["seeds"], report["failed_seeds"]) == ([0, 2], [1])
    assert "failed: seed 1;" in capsys.readouterr().err


def test_one_seed_that_is_left_makes_no_interval(root: Path, monkeypatch: pytest.MonkeyPatch):
    FakeDvc(monkeypatch, failing={1})
    assert run_seeds([0, 1], "mine", "evaluate", keep=False) == 1
    assert not (root / "work/seeds/mine.json").exists()


@pytest.mark.parametrize("chosen", [[3], [3, 3]])
def test_one_seed_is_too_few(root: Path, chosen: list[int]):
    with pytest.raises(ConfigError, match="at least two different ones"):
        run_seeds(chosen, "mine", "evaluate", keep=False)


def test_a_name_that_git_could_not_take_is_refused(root: Path):
    with pytest.raises(ConfigError, match="'a b' is no name for experiments"):
        run_seeds([0, 1], "a b", "evaluate", keep=False)


def test_code_that_git_does_not_know_is_refused(root: Path):
    (root / "src").mkdir()
    (root / "src" / "new.py").touch()
    with pytest.raises(ConfigError, match=r"git does not know src/new.py"):
        run_seeds([0, 1], "mine", "evaluate", keep=False)


def test_without_git_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "params.yaml").write_text((REPOSITORY / "params.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="git init"):
        run_seeds([0, 1], "mine", "evaluate", keep=False)
