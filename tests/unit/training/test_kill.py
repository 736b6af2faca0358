"""Pull the plug at any moment: the finished weights are the same, to the last bit.

The kills are real (SIGKILL, in `kill_matrix.py`). The quick form dies before every 12th call that
touches a checkpoint; the slow form before each one, and 100 times at random.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[3]


def kill_matrix(folder: Path, every: int, num_random: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.unit.training.kill_matrix", str(folder)]
    process = subprocess.run(
        [*command, str(every), str(num_random)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    results: dict[str, Any] = json.loads(process.stdout)
    return results


def check(results: dict[str, Any]) -> None:
    trials = {trial["name"]: trial for trial in results["trials"]}
    wrong = [name for name, trial in trials.items() if trial["sha256"] != results["whole"]]
    assert not wrong, "other weights after a kill"
    assert all(trial["has_same_points"] for trial in trials.values()), "a step missing or doubled"
    at_calls = [trial for name, trial in trials.items() if name.startswith("call-")]
    assert all(trial["exit_code"] == -9 for trial in at_calls), "a kill did not happen"
    assert any(trial["resumed_from"] for trial in at_calls), "nothing was ever resumed"
    assert trials["SIGTERM"]["exit_code"] == 143
    assert trials["SIGINT"]["exit_code"] == 130
    # They were asked to stop off a checkpoint's beat, and lost nothing.
    assert trials["SIGTERM"]["resumed_from"][0] % 24 != 0


@pytest.fixture(scope="module")
def few_kills(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return kill_matrix(tmp_path_factory.mktemp("kills"), every=12, num_random=4)


def test_a_kill_changes_no_bit_and_no_point_of_the_curves(few_kills):
    check(few_kills)


def test_the_comparison_sees_a_run_whose_noise_is_not_restored(few_kills):
    assert few_kills["forgetful"]["killed"] != few_kills["forgetful"]["whole"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_call_of_every_save_is_survived(tmp_path: Path):
    results = kill_matrix(tmp_path, every=1, num_random=100)
    assert len(results["trials"]) == results["num_calls"] + 102
    check(results)
