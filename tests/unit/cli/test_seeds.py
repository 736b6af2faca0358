"""`vivero seeds` without its trainings: what it refuses, and what a failed seed changes."""

import json
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import REPOSITORY
from vivero.cli import seed_runs, seeds
from vivero.cli.seeds import Wish, run_seeds
from vivero.config.load import load_config
from vivero.errors import ConfigError, DataError
from vivero.evaluation.per_image import save_per_image
from vivero.registry.seed_variance import SeedVariance, read_seed_variance, recipe_of

FD = "fd.efficientnet_lite0.5k"


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
    """Trains nothing: the results of an experiment are functions of its seed."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, failing: frozenset[int] = frozenset()
    ) -> None:
        self.failing, self.experiments = failing, set[str]()
        self.params = (REPOSITORY / "params.yaml").read_text()
        self.protocol = "p" * 64
        monkeypatch.setattr(seeds, "ensure_data", lambda root: 0.0)
        monkeypatch.setattr(seeds, "_reproduce", self.reproduce)
        monkeypatch.setattr(seeds, "_remove", lambda root, name: self.experiments.discard(name))
        monkeypatch.setattr(seed_runs, "read_tracked", self.read)

    def reproduce(self, root: Path, experiment: str, seed: int, stage: str) -> int:
        if seed in self.failing:
            return 255
        self.experiments.add(experiment)
        return 0

    def read(self, source: Path, revision: str, path: str) -> bytes:
        if revision not in self.experiments:
            raise ValueError(f"no experiment {revision}")
        seed = int(revision.rpartition("-")[2])
        rng = np.random.default_rng(seed)
        influences = rng.normal(size=100)
        if path == "params.yaml":
            return self.params.replace("seed: 0", f"seed: {seed}", 1).encode()
        if path.endswith("summary.json"):
            values = {"stage": "s", "seconds": 3.5, "num_images": 7, "fd": 2.0 + seed}
            return json.dumps(values).encode()
        weights_sha256 = f"{seed:064}"
        if path.endswith("metrics.json"):
            metric = {"value": 2.0 + seed, "std_error": 0.1, "n": 100, "better": "lower"}
            report = {
                "protocol": {"hash": self.protocol},
                "lineage": {"data_digest": "d.dir", "weights_sha256": weights_sha256},
                "metrics": {FD: metric},
            }
            return json.dumps(report).encode()
        assert path == "artifacts/evaluate/per_image.safetensors"
        with tempfile.TemporaryDirectory() as folder:
            file_path = Path(folder) / "values"
            save_per_image({FD: influences}, self.protocol, weights_sha256, file_path)
            return file_path.read_bytes()


def test_all_seeds_count_and_their_experiments_are_removed(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    dvc = FakeDvc(monkeypatch)
    assert run_seeds(Wish([0, 1, 2], "mine", "evaluate", keep=False)) == 0
    report = json.loads((root / "work/seeds/mine.json").read_text())
    assert list(report["figures"]) == ["fd"]
    assert report["figures"]["fd"]["mean"]["value"] == 3.0
    assert report["figures"]["fd"]["std"] == pytest.approx(1.0)
    assert report["figures"]["fd"]["values"] == {"0": 2.0, "1": 3.0, "2": 4.0}
    assert (root / "work/seeds/mine.png").exists()
    assert "3 ± 2.5" in capsys.readouterr().out
    assert not dvc.experiments


def test_experiments_stay_when_asked_for(root: Path, monkeypatch: pytest.MonkeyPatch):
    dvc = FakeDvc(monkeypatch)
    run_seeds(Wish([0, 1], "mine", "evaluate", keep=True))
    assert dvc.experiments == {"mine-0", "mine-1"}


def test_a_failed_seed_is_named_and_the_others_count(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    FakeDvc(monkeypatch, failing=frozenset({1}))
    assert run_seeds(Wish([0, 1, 2], "mine", "evaluate", keep=False)) == 1
    report = json.loads((root / "work/seeds/mine.json").read_text())
    assert (report["seeds"], report["failed_seeds"]) == ([0, 2], [1])
    assert "failed: seed 1;" in capsys.readouterr().err


def test_one_seed_that_is_left_makes_no_interval(root: Path, monkeypatch: pytest.MonkeyPatch):
    FakeDvc(monkeypatch, failing=frozenset({1}))
    assert run_seeds(Wish([0, 1], "mine", "evaluate", keep=False)) == 1
    assert not (root / "work/seeds/mine.json").exists()


@pytest.mark.parametrize("chosen", [[3], [3, 3]])
def test_one_seed_is_too_few(root: Path, chosen: list[int]):
    with pytest.raises(ConfigError, match="at least two different ones"):
        run_seeds(Wish(chosen, "mine", "evaluate", keep=False))


def test_a_name_that_git_could_not_take_is_refused(root: Path):
    with pytest.raises(ConfigError, match="'a b' is no name for experiments"):
        run_seeds(Wish([0, 1], "a b", "evaluate", keep=False))


def test_code_that_git_does_not_know_is_refused(root: Path):
    (root / "src").mkdir()
    (root / "src" / "new.py").touch()
    with pytest.raises(ConfigError, match=r"git does not know src/new.py"):
        run_seeds(Wish([0, 1], "mine", "evaluate", keep=False))


def test_without_git_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "params.yaml").write_text((REPOSITORY / "params.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="git init"):
        run_seeds(Wish([0, 1], "mine", "evaluate", keep=False))


def variance(root: Path) -> SeedVariance:
    found = read_seed_variance(root)
    assert found is not None
    return found


def test_the_variance_between_seeds_is_stored_with_the_recipe_and_announced(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    FakeDvc(monkeypatch)
    run_seeds(Wish([0, 1, 2], "mine", "evaluate"))
    found = variance(root)
    assert found.metrics[FD].values == {0: 2.0, 1: 3.0, 2: 4.0}
    assert found.recipe_sha256 == recipe_of(load_config(root / "params.yaml"))
    assert found.data_digest == "d.dir"
    spread = found.metrics[FD].spread
    assert spread.observed_relative_std == pytest.approx(1 / 3)
    assert 0.05 < spread.evaluation_error < 0.2  # the values per image arrived: 1 / sqrt(100)
    told = capsys.readouterr().out
    assert "The variance between 3 seeds is in seed_variance.json" in told
    assert "git add seed_variance.json && git commit" in told
    assert "With fewer than 5 seeds" in told


def test_a_second_command_adds_its_seeds_to_the_first(root: Path, monkeypatch: pytest.MonkeyPatch):
    FakeDvc(monkeypatch)
    run_seeds(Wish([0, 1, 2], "mine", "evaluate"))
    run_seeds(Wish([5], "mine", "evaluate"))
    assert list(variance(root).metrics[FD].values) == [0, 1, 2, 5]
    report = json.loads((root / "work/seeds/mine.json").read_text())
    assert report["seeds"] == [0, 1, 2, 5]
    assert report["figures"]["fd"]["values"] == {"0": 2.0, "1": 3.0, "2": 4.0, "5": 7.0}


def test_seeds_are_added_to_the_stored_variance_when_work_was_deleted(
    root: Path, monkeypatch: pytest.MonkeyPatch
):
    FakeDvc(monkeypatch)
    run_seeds(Wish([0, 1, 2], "mine", "evaluate"))
    shutil.rmtree(root / "work")
    run_seeds(Wish([5, 6], "mine", "evaluate"))
    assert list(variance(root).metrics[FD].values) == [0, 1, 2, 5, 6]


@pytest.mark.parametrize("change", ["recipe", "protocol"])
def test_seeds_of_another_recipe_or_protocol_are_left_out(
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    change: str,
):
    dvc = FakeDvc(monkeypatch)
    run_seeds(Wish([0, 1, 2], "mine", "evaluate"))
    if change == "recipe":
        dvc.params = dvc.params.replace("learning_rate: 1.0e-2", "learning_rate: 2.0e-2")
    else:
        dvc.protocol = "q" * 64
    run_seeds(Wish([5, 6], "mine", "evaluate"))
    assert list(variance(root).metrics[FD].values) == [5, 6]
    assert "left out: seed 0, 1, 2 of another recipe, protocol or stage" in caplog.text


def test_experiments_of_another_clone_are_taken_without_training(
    root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
):
    dvc = FakeDvc(monkeypatch)
    dvc.experiments = {"mine-1", "mine-2"}
    dvc.failing = frozenset({1, 2})  # training would fail
    other = tmp_path_factory.mktemp("other")
    assert run_seeds(Wish([1, 2], "mine", "evaluate", source=other)) == 0
    assert list(variance(root).metrics[FD].values) == [1, 2]
    with pytest.raises(DataError, match="no finished experiment mine-3"):
        run_seeds(Wish([1, 3], "mine", "evaluate", source=other))


def test_a_damaged_result_is_named(root: Path, monkeypatch: pytest.MonkeyPatch):
    FakeDvc(monkeypatch)
    run_seeds(Wish([0, 1], "mine", "evaluate"))
    (root / "work/seeds/mine/1/metrics.json").write_text("[]")
    with pytest.raises(DataError, match=r"seeds/mine/1 is not what .* delete that folder"):
        run_seeds(Wish([2], "mine", "evaluate"))


def test_a_training_alone_stores_no_variance(root: Path, monkeypatch: pytest.MonkeyPatch):
    FakeDvc(monkeypatch)
    assert run_seeds(Wish([0, 1], "mine", "train")) == 0
    assert read_seed_variance(root) is None
