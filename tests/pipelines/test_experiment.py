"""The flow: DVC's order, one process group a stage, errors that say which stage."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipelines import commands, experiment
from vivero.cli.planning import stage_order
from vivero.errors import RemoteError, StageError, TrackingError

REPOSITORY = Path(__file__).parents[2]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def test_each_stage_comes_after_what_it_depends_on():
    names = stage_order(REPOSITORY)
    stages = YAML(typ="safe").load((REPOSITORY / "dvc.yaml").read_text())["stages"]
    assert sorted(names) == sorted(stages)
    for name in names:
        before = {dep.split("/")[1] for dep in stages[name]["deps"] if dep.startswith("artifacts/")}
        assert before <= set(names[: names.index(name)])


def test_the_order_is_that_of_the_file_where_the_graph_leaves_a_choice():
    stages = YAML(typ="safe").load((REPOSITORY / "dvc.yaml").read_text())["stages"]
    assert stage_order(REPOSITORY) == list(stages)


def test_a_pull_is_asked_for_only_where_there_is_a_remote(tmp_path: Path):
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(command, cwd=tmp_path, check=True)
    assert not experiment.has_remote(tmp_path)
    command = [sys.executable, "-m", "dvc", "remote", "add", "-d", "-q", "here", str(tmp_path)]
    subprocess.run(command, cwd=tmp_path, check=True)
    assert experiment.has_remote(tmp_path)


@pytest.mark.parametrize(
    ("code", "error", "said"),
    [
        ("raise SystemExit(3)", StageError, "stage 'broken' failed with exit code 3"),
        ("raise SystemExit(75)", TrackingError, "could not reach a server"),
    ],
)
def test_a_stage_that_fails_stops_the_flow_with_its_name(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    code: str,
    error: type[Exception],
    said: str,
):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "broken.py").write_text(code)
    monkeypatch.setattr(commands, "get_run_logger", lambda: logging.getLogger("flow"))
    with pytest.raises(error, match=said):
        commands.run_timed("broken", ["broken"], tmp_path)


def test_a_remote_that_does_not_answer_is_told_from_a_stage_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """DVC ends with the same exit code for both; only its words differ."""
    (tmp_path / "src").mkdir()
    said = 'ERROR: unexpected error - Could not connect to the endpoint URL: "http://x/"'
    (tmp_path / "src" / "dvc.py").write_text(f"raise SystemExit({said!r})")
    monkeypatch.setattr(commands, "get_run_logger", lambda: logging.getLogger("flow"))
    with pytest.raises(RemoteError, match="DVC could not reach its remote for stage 'train'"):
        commands.run_timed("train", ["dvc", "repro", "train"], tmp_path)


@pytest.mark.parametrize("flow", ["experiment", "refresh_data", "monitor", "promotion"])
def test_the_flow_imports_nothing_heavy(flow: str):
    code = (
        f"import sys, pipelines.{flow}; "
        "print([m for m in ('torch', 'mlflow', 'great_expectations') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
