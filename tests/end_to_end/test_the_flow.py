"""The flow in fresh clones and under signals: what DVC alone would do, and no process behind it."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.end_to_end.conftest import BIN, Clone, draw_images
from tests.proofs.prove_flows import MARK, outcome, processes_of, stage_process

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
STAGES = ["validate_data", "prepare_data", "compute_reference", "train", "sample", "evaluate"]


def fresh(house: Clone, root: Path, remote: Path) -> Clone:
    """A clone as git makes it, without data, cache or artifacts, that knows the remote."""
    house.git("clone", "--quiet", "--", str(house.root), str(root))
    clone = Clone(root)
    (root / ".dvc" / "config.local").write_text(
        f"[core]\n    remote = all\n['remote \"all\"']\n    url = {remote}\n"
    )
    return clone


def stages_of_flow(clone: Clone) -> list[str]:
    """Run the flow; the stages that DVC really ran, also those it did not take from its cache."""
    return re.findall(r"Running stage '(\w+)'", clone.run("vivero", "run").stdout)


def test_a_fresh_clone_repeats_nothing_until_the_data_changes(
    finished_clone: Clone, tmp_path: Path
):
    house = Clone(tmp_path / "house")
    shutil.copytree(finished_clone.root, house.root, symlinks=True)
    remote = tmp_path / "remote"
    house.run("dvc", "remote", "add", "--local", "-d", "all", str(remote))
    house.run("dvc", "push", "--quiet")
    house.git("add", "dvc.lock")
    house.git("commit", "--quiet", "--message", "made")
    assert stages_of_flow(fresh(house, tmp_path / "same", remote)) == []

    draw_images(tmp_path / "more", num_per_class=62)  # two more of each than are there
    house.run("vivero", "data", "import", str(tmp_path / "more"), "--append")
    house.run("dvc", "add", "--quiet", "data")
    house.run("dvc", "push", "--quiet", "data.dvc")
    house.git("add", "data.dvc")
    house.git("commit", "--quiet", "--message", "more data")
    assert stages_of_flow(fresh(house, tmp_path / "changed", remote)) == STAGES


def test_sigterm_leaves_no_process_and_no_second_trainer(finished_clone: Clone, tmp_path: Path):
    root = tmp_path / "stopped"
    shutil.copytree(finished_clone.root, root, symlinks=True)
    clone = Clone(root)
    clone.change("train.seed", 7)
    env = {
        **os.environ,
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(root / "src"),
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "600",
        "VIVERO_NUM_THREADS": "1",
        MARK: str(root),
    }
    command = [sys.executable, "-m", "pipelines.experiment"]
    quiet = subprocess.DEVNULL
    flow = subprocess.Popen(command, cwd=root, env=env, stdout=quiet, stderr=quiet)
    ends_at = time.monotonic() + 900
    while (trainer := stage_process(str(root), "train")) is None and time.monotonic() < ends_at:
        assert flow.poll() is None, "the flow ended before its training began"
        time.sleep(0.1)
    assert trainer is not None
    flow.send_signal(signal.SIGTERM)
    assert flow.wait(300) != 0
    time.sleep(5)
    assert processes_of(str(root)) == []

    again = subprocess.run(command, cwd=root, env=env, capture_output=True, check=False)
    assert again.returncode == 0, again.stderr[-3000:]
    before, after = outcome(finished_clone.root), outcome(root)
    assert after["weights"] != before["weights"]
    assert after["mlflow"]["model_versions"] == before["mlflow"]["model_versions"] + 1
