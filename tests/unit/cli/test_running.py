"""`vivero run` beside another one, and the page at its end."""

from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock
from rich.console import Console

from vivero.cli import running
from vivero.config.paths import PARAMS, work_dir
from vivero.errors import ConfigError

REPOSITORY = Path(__file__).parents[3]


@pytest.mark.parametrize(
    "second",
    [
        lambda: running.run_experiment(force=False),
        lambda: running.run_one_stage("train", outside_dvc=False, force=False),
        lambda: running.run_one_stage("judge", outside_dvc=True, force=False),
    ],
)
def test_a_second_run_is_refused_before_it_starts_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, second: Callable[[], int]
):
    (tmp_path / PARAMS).write_bytes((REPOSITORY / PARAMS).read_bytes())
    (tmp_path / ".git").mkdir()
    monkeypatch.setattr(running, "project_dir", lambda: tmp_path)
    work_dir(tmp_path).mkdir()
    with (
        FileLock(work_dir(tmp_path) / "run.lock"),
        pytest.raises(ConfigError, match=r"another `vivero run`.* works in"),
    ):
        second()
    assert not (tmp_path / "data").exists()


def test_after_an_alarm_it_says_how_to_train_again(capsys: pytest.CaptureFixture[str]):
    running._say_how_to_train_again({"trigger": False, "source": "in"})
    assert capsys.readouterr().err == ""
    running._say_how_to_train_again({"trigger": True, "source": "my photos"})
    said = capsys.readouterr().err
    assert "vivero data import 'my photos' --append && dvc add data" in said
    assert "git commit -m 'what came in' data.dvc && vivero run" in said


def test_names_of_figures_are_shown_whole():
    name = "precision.efficientnet_lite0.5k"
    figure = {"value": 0.854, "low": 0.002124, "high": 0.005439, "floor": -0.0002615, "n": 10000}
    table = running._metric_table({"metrics": {name: {**figure, "better": "higher"}}})
    console = Console(width=running.MIN_WIDTH, record=True, file=None)
    with console.capture() as capture:
        console.print(table)
    assert name in capture.get()
    assert "0.002124 to 0.005439" in capture.get()
