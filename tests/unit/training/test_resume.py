"""A resume that cannot be exact to the bit says so, whatever it is that differs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.unit.training.tiny_run import tiny_run
from vivero.errors import CheckpointError

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


def test_a_checkpoint_of_another_version_says_what_to_do(trained: Path):
    store = tiny_run(trained, **SHORT).outlets.store
    newest = store.newest()
    assert newest is not None
    facts = {name: value for name, value in newest.facts.items() if name != "tally"}
    store.save(24, newest.tensors, facts)
    with pytest.raises(CheckpointError, match=r"written by another version\. Delete"):
        tiny_run(trained, **SHORT)
