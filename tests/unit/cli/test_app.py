"""The command line answers quickly, helps, and ends in sentences."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

VIVERO = str(Path(sys.executable).parent / "vivero")
REPOSITORY = Path(__file__).parents[3]
COMMANDS = [
    "run", "doctor", "ui", "sample", "show-tree", "models", "models history",
    "keys", "keys export", "ab start", "ab sample", "ab outcome", "ab pair", "ab prefer",
    "ab status", "ab stop", "simulate-ab", "promote", "rollback", "lineage",
    "monitor", "simulate-drift", "data fetch", "data import", "data verify", "data show",
    "validate-data", "validate_data", "prepare_data", "compute_reference", "train", "evaluate",
    "check_drift", "judge", "register",
    "compare", "compare-samplers", "seeds", "find-learning-rate", "verify", "simulate-gates",
    "measure-champion",
]  # fmt: skip


def vivero(*arguments: str, cwd: Path = REPOSITORY) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [VIVERO, *arguments], cwd=cwd, capture_output=True, text=True, timeout=120
    )


def test_help_answers_at_once():
    started = os.times()
    begin = time.perf_counter()
    result = vivero("--help")
    ended = os.times()
    busy_s = ended.children_user + ended.children_system
    busy_s -= started.children_user + started.children_system
    assert result.returncode == 0
    # The processor's time, so that a busy machine does not fail a quick program.
    assert min(busy_s, time.perf_counter() - begin) < 0.5


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_explanation(command: str):
    result = vivero(*command.split(), "--help")
    assert result.returncode == 0
    assert "Usage: vivero" in result.stdout
    assert len(result.stdout.splitlines()) > 4


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("lineage", "no-such-thing"), "does not exist"),
        (("sample", "no-such-thing", "--out", "x"), "neither a bundle folder nor models:/"),
        (("sample", "models:/vivero", "--out", "x"), "is no model; write models:/NAME@champion"),
    ],
)
def test_a_mistake_ends_in_a_sentence(arguments: tuple[str, ...], said: str, tmp_path: Path):
    (tmp_path / "params.yaml").write_text((REPOSITORY / "params.yaml").read_text())
    result = vivero(*arguments, cwd=tmp_path)
    assert result.returncode == 1
    assert said in result.stderr
    assert "Traceback" not in result.stderr


def test_outside_a_clone_it_says_where_to_go(tmp_path: Path):
    result = vivero("run", cwd=tmp_path)
    assert result.returncode == 1
    assert "inside a clone of the repository" in result.stderr


@pytest.mark.parametrize("command", ["judge", "register", "check-drift"])
def test_what_runs_each_time_has_no_option_to_be_forced(command: str):
    result = vivero(command, "--force")
    assert result.returncode == 2
    assert "No such option: --force" in result.stderr


@pytest.mark.parametrize("command", ["run", "plan"])
def test_a_mistake_in_the_settings_is_said_before_anything_starts(command: str, tmp_path: Path):
    text = (REPOSITORY / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(text.replace("batch_images: 64", "batch_images: many"))
    result = vivero(command, cwd=tmp_path)
    assert result.returncode == 1
    assert "train.batch_images" in result.stderr
    assert list(tmp_path.iterdir()) == [tmp_path / "params.yaml"]
