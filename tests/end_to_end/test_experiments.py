"""Experiments on the tiny clone: several seeds, and a sweep through the queue."""

import json
import time

import pytest

from tests.end_to_end.conftest import Clone

pytestmark = [pytest.mark.timeout(900), pytest.mark.slow]


def params_of(clone: Clone, experiment: str) -> dict[str, object]:
    """The block train of params.yaml in an experiment, as DVC reads it."""
    shown = json.loads(clone.run("dvc", "exp", "show", "--json").stdout)
    for baseline in shown:
        for found in baseline["experiments"] or []:
            for state in found["revs"]:
                if state["name"] == experiment:
                    return dict(state["data"]["params"]["params.yaml"]["data"]["train"])
    pytest.fail(f"`dvc exp show` knows no {experiment}")


def wait_for_queue(clone: Clone, patience_s: float = 400) -> str:
    """The queue's table once nothing is queued or running."""
    ends_at = time.monotonic() + patience_s
    while time.monotonic() < ends_at:
        status = clone.run("dvc", "queue", "status").stdout
        if "Queued" not in status and "Running" not in status:
            return status
        time.sleep(2)
    pytest.fail(f"the queue did not end in {patience_s:.0f} s:\n{status}")


def test_seeds_run_beside_the_workspace_and_are_not_repeated(finished_clone: Clone):
    finished_clone.change("judge.confidence", 0.9)  # a change of the user's, not committed
    before = finished_clone.git("status", "--short"), finished_clone.git("diff")
    command = ("vivero", "seeds", "0", "1", "--stage", "train", "--name", "tiny", "--keep")
    try:
        shown = finished_clone.run(*command).stdout
        assert "Over 2 seeds" in shown
        assert "validation_loss" in shown
        report = json.loads((finished_clone.root / "work/seeds/tiny.json").read_text())
        values = report["figures"]["validation_loss"]["values"]
        summary = finished_clone.root / "artifacts/train/summary.json"
        assert values["0"] == json.loads(summary.read_text())["validation_loss"]
        assert values["0"] != values["1"]
        assert params_of(finished_clone, "tiny-1")["seed"] == 1

        again = finished_clone.run(*command)
        assert "training starts" not in again.stdout + again.stderr
        assert (finished_clone.git("status", "--short"), finished_clone.git("diff")) == before
    finally:
        finished_clone.run("dvc", "exp", "remove", "tiny-0", "tiny-1", check=False)
        finished_clone.git("checkout", "--", "params.yaml")


def test_a_failed_seed_does_not_stop_the_others(finished_clone: Clone):
    seeds = ("0", "1", str(2**70))  # too large for a generator of torch
    result = finished_clone.run("vivero", "seeds", *seeds, "--stage", "train", check=False)
    assert result.returncode == 1
    assert f"failed: seed {2**70};" in result.stderr
    assert "Over 2 seeds" in result.stdout


def test_a_sweep_runs_through_the_queue(finished_clone: Clone):
    """As DVC documents it; small numbers too, which it writes as 2e-05."""
    sweep = ("--queue", "--name", "lr", "-S", "train.learning_rate=1.0e-3,2e-5", "train")
    finished_clone.run("dvc", "exp", "run", *sweep)
    finished_clone.run("dvc", "queue", "start")
    try:
        status = wait_for_queue(finished_clone)
        assert status.count("Success") == 2, status
        assert params_of(finished_clone, "lr-1")["learning_rate"] == 1e-3
        assert params_of(finished_clone, "lr-2")["learning_rate"] == 2e-5
    finally:
        finished_clone.run("dvc", "queue", "remove", "--all", check=False)
        finished_clone.run("dvc", "exp", "remove", "lr-1", "lr-2", check=False)
