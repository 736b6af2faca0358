"""Ray Train on a cluster of this machine: a worker is killed, and the bytes are those of torchrun.

The two workers of Ray and of torchrun share the images in the same way, so the same world size must
give the same weights, whoever starts the processes and however often.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.unit.training.ray_run import (
    NUM_WORKERS,
    TOTAL_IMAGES,
    divide_by_zero,
    raise_our_own,
    train_tiny_run,
)
from vivero.errors import ConfigError, TrainingError
from vivero.training.distributed import torchrun_command
from vivero.training.ray_engine import in_one_sentence, train_on_ray

REPOSITORY = Path(__file__).parents[3]

# Ray Data, which Ray Train makes a context of, warns of its own defaults.
of_ray_itself = pytest.mark.filterwarnings(
    r"ignore:`use_\w+` is deprecated:DeprecationWarning:ray\.data\.context"
)


class LostWorkersError(Exception):
    """As Ray Train's: the failures of its workers, by rank."""

    def __init__(self, **failures: Exception) -> None:
        super().__init__("Training failed due to worker errors:\nTraceback ...")
        self.worker_failures = {int(rank[1:]): error for rank, error in failures.items()}


@pytest.fixture(scope="module")
def own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Ray writes the token of its local clusters once, below the home folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.delenv("RAY_ADDRESS", raising=False)
        yield


def kill_once_saved(folder: Path, killed: list[int]) -> None:
    """Wait for the first checkpoint, then kill the second worker from outside."""
    while not any(folder.glob("checkpoints/0*")):
        time.sleep(0.05)
    (started,) = folder.glob("started-1-*")
    pid = int(started.name.split("-")[2])
    os.kill(pid, signal.SIGKILL)
    killed.append(pid)


def train_on_torchrun(folder: Path) -> str:
    process = subprocess.run(
        [
            *torchrun_command("tests.unit.training.tiny_run", NUM_WORKERS),
            *(str(folder), f"num_processes={NUM_WORKERS}", f"total_images={TOTAL_IMAGES}"),
        ],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    sha256: str = json.loads((folder / "final.json").read_text())["sha256"]
    return sha256


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("own_home")
@of_ray_itself
def test_a_killed_worker_is_replaced_and_the_bytes_are_those_of_torchrun(tmp_path: Path):
    folder = tmp_path / "ray"
    folder.mkdir()
    killed: list[int] = []
    killer = threading.Thread(target=kill_once_saved, args=(folder, killed), daemon=True)
    killer.start()

    train_on_ray(partial(train_tiny_run, folder), NUM_WORKERS, max_failures=2, storage_dir=folder)

    assert killed, "the fault did not fire"
    assert len(list(folder.glob("started-*"))) == 2 * NUM_WORKERS
    final = json.loads((folder / "final.json").read_text())
    assert final["resumed_from"]
    assert final["sha256"] == train_on_torchrun(tmp_path / "torchrun")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("own_home")
@of_ray_itself
def test_an_error_of_ours_comes_out_of_the_cluster_as_it_was_raised(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    with pytest.raises(TrainingError, match=r"^the loss is not finite after 8 images; lower"):
        train_on_ray(raise_our_own, NUM_WORKERS, max_failures=0, storage_dir=tmp_path)
    captured = capfd.readouterr()
    assert "Traceback" not in captured.out + captured.err


def test_an_error_of_a_worker_becomes_one_sentence():
    error = in_one_sentence(
        LostWorkersError(_1=ZeroDivisionError("by zero\nat 0x7f")), max_failures=2
    )
    assert str(error) == (
        "training on Ray failed and was started again 2 times "
        "(worker 1: ZeroDivisionError: by zero); correct the cause and run the same command again, "
        "it resumes from the last checkpoint"
    )


def test_what_we_raised_ourselves_comes_first():
    ours = TrainingError("the loss is not finite")
    lost = LostWorkersError(_0=RuntimeError("connection closed by peer"), _1=ours)
    assert in_one_sentence(lost, max_failures=0) is ours


def test_a_failure_of_ray_itself_is_said_in_its_first_line():
    error = in_one_sentence(RuntimeError("no room\nTraceback ..."), max_failures=0)
    assert "(RuntimeError: no room)" in str(error)


def test_without_ray_the_error_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'vivero\[ray\]'"):
        train_on_ray(divide_by_zero, 1, max_failures=0, storage_dir=tmp_path)


@of_ray_itself
def test_a_cluster_that_does_not_answer_is_named_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")  # nothing listens there any more
    with pytest.raises(ConfigError, match=rf"no Ray cluster answers at RAY_ADDRESS=127.*{port}"):
        train_on_ray(divide_by_zero, 1, max_failures=0, storage_dir=tmp_path)


def test_ray_is_not_imported_before_it_is_used():
    code = "import sys, vivero.training.ray_engine; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
