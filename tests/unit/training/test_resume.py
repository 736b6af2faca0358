"""A resume that cannot be exact to the bit says so, whatever it is that differs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.unit.training.tiny_run import tiny_run
from vivero.errors import CheckpointError
from vivero.training.state import Best

REPOSITORY = Path(__file__).parents[3]
SHORT = {"total_images": 24, "checkpoint_every_images": 24}
NOT_EXACT = "not bit-exact: the checkpoint was made in other surroundings ({}"


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    tiny_run(tmp_path, **SHORT).go()
    return tmp_path


def made_elsewhere(folder: Path, name: str, value: str) -> None:
    """Save the newest checkpoint again as a machine with another value would have."""
    store = tiny_run(folder, **SHORT).outlets.store
    newest = store.newest()
    assert newest is not None
    surroundings = {**newest.facts["surroundings"], name: value}
    store.save(24, newest.tensors, {**newest.facts, "surroundings": surroundings})


def test_the_same_surroundings_are_not_labelled(trained: Path, caplog):
    tiny_run(trained, **SHORT)
    assert "not bit-exact" not in caplog.text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("threads", "64"),
        ("cpu capability", "AVX512"),
        ("torch", "2.1.0"),
        ("device", "another processor"),
        ("processes", "8"),
        ("num micro batches", "4"),
    ],
)
def test_a_checkpoint_made_elsewhere_is_labelled(trained: Path, caplog, name: str, value: str):
    if name == "cpu capability" and torch.backends.cpu.get_cpu_capability() == value:
        value = "AVX2"
    made_elsewhere(trained, name, value)
    caplog.clear()
    tiny_run(trained, **SHORT)
    assert NOT_EXACT.format(f"{name} {value} -> ") in caplog.text


def test_other_threads_here_are_labelled(trained: Path, caplog):
    torch.set_num_threads(2)
    try:
        tiny_run(trained, **SHORT)
    finally:
        torch.set_num_threads(1)
    assert NOT_EXACT.format("threads 1 -> 2)") in caplog.text


def test_another_number_of_micro_batches_here_is_labelled(trained: Path, caplog):
    tiny_run(trained, **SHORT, num_micro_batches=2)
    assert NOT_EXACT.format("num micro batches 1 -> 2)") in caplog.text


def test_another_kind_of_processor_is_labelled(trained: Path):
    """With its vector instructions off, this processor is as good as another one."""
    process = subprocess.run(
        [
            *(sys.executable, "-m", "tests.unit.training.tiny_run", str(trained)),
            *(f"{name}={value}" for name, value in SHORT.items()),
        ],
        cwd=REPOSITORY,
        env={**os.environ, "ATEN_CPU_CAPABILITY": "default"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-2000:]
    here = torch.backends.cpu.get_cpu_capability()
    assert NOT_EXACT.format(f"cpu capability {here} -> DEFAULT)") in process.stderr


def saved_with(folder: Path, **facts: object) -> None:
    """Save the newest checkpoint again with other facts."""
    store = tiny_run(folder, **SHORT).outlets.store
    newest = store.newest()
    assert newest is not None
    store.save(24, newest.tensors, {**newest.facts, **facts})


def test_the_best_moment_and_an_early_stop_are_restored(trained: Path):
    saved_with(trained, best={"loss": 0.25, "images_seen": 16}, has_stopped_early=True)
    state = tiny_run(trained, **SHORT).state
    assert state.best == Best(0.25, 16)
    assert state.has_stopped_early


def test_without_a_validation_there_is_no_best_moment(trained: Path):
    saved_with(trained, best=None)
    assert tiny_run(trained, **SHORT).state.best == Best()


@pytest.mark.parametrize(("values", "expected"), [([5.0], 5.0), ([1.0, 2.0, 6.0], 3.0)])
def test_the_sums_of_another_number_of_processes_are_shared(trained: Path, values, expected):
    sums = dict.fromkeys(("loss", "gradient_norm", "usual_loss"), values)
    tally = {"num_steps": 2, "terms": {}, **sums}
    saved_with(trained, tally=tally)
    found = tiny_run(trained, **SHORT).state.tally
    assert found.num_steps == 2
    assert float(found.loss) == float(found.gradient_norm) == float(found.usual_loss) == expected


def test_a_checkpoint_of_another_version_says_what_to_do(trained: Path):
    store = tiny_run(trained, **SHORT).outlets.store
    newest = store.newest()
    assert newest is not None
    facts = {name: value for name, value in newest.facts.items() if name != "tally"}
    store.save(24, newest.tensors, facts)
    with pytest.raises(CheckpointError, match=r"written by another version\. Delete"):
        tiny_run(trained, **SHORT)
