"""Several gloo processes train as one process does on the joint batch, up to rounding.

Measured over 12 steps, of weights up to 2.6, the largest difference of a weight to the run of one
process: DDP 8.8e-7, DDP with two micro-batches 1.4e-6, FSDP2 8.8e-7, one process for 72 images and
then FSDP2 7.5e-9.
Each of them, run again, killed or not, gives its own bits. The labels have three rows, which two
processes cannot cut evenly.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch

from tests.unit.training.tiny_run import tiny_run, traced
from vivero.training.distributed import Workers, alone, join_workers, torchrun_command
from vivero.training.supervision import RESTARTABLE

REPOSITORY = Path(__file__).parents[3]
MAX_DIFFERENCE = 1e-5
FILES = ("weights", "ema-16", "ema-8", "optimizer")
FULL = 'sharding="full"'
TREE = 'network="tree"'


def train_with_two(folder: Path, *settings: str, max_restarts: int = 0) -> dict[str, Any]:
    command = torchrun_command("tests.unit.training.tiny_run", 2, max_restarts)
    process = subprocess.run(
        [*command, str(folder), "num_processes=2", *settings],
        cwd=REPOSITORY,
        env={**os.environ, **RESTARTABLE, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return final_of(folder)


def final_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "final.json").read_text()))


def largest_difference(one: Path, other: Path) -> float:
    """Over weights, averages and moments at the end."""
    differences = []
    for file in FILES:
        names = (folder / f"checkpoints/0000000096/{file}.safetensors" for folder in (one, other))
        first, second = (safetensors.torch.load_file(name) for name in names)
        assert first.keys() == second.keys()
        differences += [float((first[name] - second[name]).abs().max()) for name in first]
    return max(differences)


def seen_in(folder: Path) -> dict[int, list[str]]:
    """What each step was trained on, over all processes, by the images seen before it."""
    steps: dict[int, list[str]] = {}
    for path in sorted(folder.glob("seen-*.jsonl")):
        for begin, images in map(json.loads, path.read_text().splitlines()):
            steps.setdefault(begin, []).extend(images)
    return steps


def without_the_end(folder: Path, copy: Path) -> Path:
    """A copy of a run as if it had been killed after 72 images."""
    shutil.copytree(folder, copy)
    shutil.rmtree(copy / "checkpoints/0000000096")
    return copy


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one")
    traced(tiny_run(folder), folder).go()
    return folder


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    train_with_two(folder)
    return folder


@pytest.fixture(scope="module")
def one_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one_tree")
    traced(tiny_run(folder, network="tree"), folder).go()
    return folder


@pytest.fixture(scope="module")
def two_trees(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two_trees")
    train_with_two(folder, TREE)
    return folder


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cut")
    train_with_two(folder, FULL)
    return folder


def test_two_processes_equal_one_up_to_rounding(one: Path, two: Path):
    assert largest_difference(one, two) < MAX_DIFFERENCE


def test_two_processes_of_a_tree_equal_one_up_to_rounding(one_tree: Path, two_trees: Path):
    assert largest_difference(one_tree, two_trees) < MAX_DIFFERENCE
    assert seen_in(two_trees) == seen_in(one_tree)


@pytest.mark.slow
@pytest.mark.parametrize(("whole", "settings"), [("one", []), ("one_tree", [TREE])])
def test_two_processes_in_parts_equal_one_up_to_rounding(whole, settings, tmp_path, request):
    train_with_two(tmp_path, *settings, "num_micro_batches=2")
    assert largest_difference(request.getfixturevalue(whole), tmp_path) < MAX_DIFFERENCE


def test_the_comparison_sees_images_that_were_left_out(two: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(
        Workers, "share_of", lambda _self, batch_images: slice(0, batch_images // 2)
    )
    run = tiny_run(tmp_path)
    run.state.tally.bad_losses = run.state.tally.bad_losses[:4]
    run.go()
    assert largest_difference(two, tmp_path) > 100 * MAX_DIFFERENCE


def test_only_the_first_process_writes(two: Path):
    lines = (two / "journal.jsonl").read_text().splitlines()
    assert len(lines) == 8
    assert len(list(two.glob("started-*"))) == 2


def test_sharded_processes_equal_one_up_to_rounding(one: Path, cut: Path):
    assert largest_difference(one, cut) < MAX_DIFFERENCE


def test_sharded_processes_hold_half_of_the_moments_each(two: Path, cut: Path):
    whole_bytes, cut_bytes = (final_of(folder)["optimizer_bytes"] for folder in (two, cut))
    assert cut_bytes == pytest.approx(whole_bytes / 2, rel=0.01)


@pytest.mark.slow
def test_sharded_processes_validate_their_average(one: Path, cut: Path):
    expected = tiny_run(one).state.validation_loss
    assert final_of(cut)["validation_loss"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("way", "whole", "network"),
    [("cut", "one", "unet"), ("two", "one", "unet"), ("two_trees", "one_tree", "tree")],
)
def test_one_process_goes_on_from_the_checkpoint_of_two(way, whole, network, tmp_path, request):
    folder = without_the_end(request.getfixturevalue(way), tmp_path / "run")
    run = tiny_run(folder, network=network).go()
    assert run.state.resumed_from == [72]
    assert largest_difference(request.getfixturevalue(whole), folder) < MAX_DIFFERENCE


@pytest.mark.slow
def test_sharded_processes_go_on_from_the_checkpoint_of_one(one: Path, tmp_path: Path):
    folder = without_the_end(one, tmp_path / "run")
    assert train_with_two(folder, FULL)["resumed_from"] == [72]
    assert largest_difference(one, folder) < MAX_DIFFERENCE


@pytest.mark.slow
def test_sharded_processes_resume_to_their_own_bits(cut: Path, tmp_path: Path):
    again = train_with_two(without_the_end(cut, tmp_path / "run"), FULL)
    assert again["resumed_from"] == [72]
    assert again["sha256"] == final_of(cut)["sha256"]


@pytest.mark.slow
@pytest.mark.parametrize(("way", "settings"), [("two", []), ("cut", [FULL])])
def test_the_same_again_gives_the_same_bits(way: str, settings, tmp_path: Path, request):
    again = train_with_two(tmp_path, *settings)
    assert again["sha256"] == final_of(request.getfixturevalue(way))["sha256"]


def test_from_one_process_to_two_and_back_the_data_keep_their_order(one: Path, tmp_path: Path):
    def alone() -> list[int]:
        return traced(tiny_run(tmp_path, keep_checkpoints=4), tmp_path).go().state.resumed_from

    keep_until(tmp_path, 24, alone)
    keep_until(tmp_path, 72, lambda: train_with_two(tmp_path, "keep_checkpoints=4"))
    assert alone() == [24, 72]
    assert list(seen_in(one)) == list(range(0, 96, 8))
    assert seen_in(tmp_path) == seen_in(one)
    assert largest_difference(one, tmp_path) < MAX_DIFFERENCE


def keep_until(folder: Path, images_seen: int, train: Callable[[], object]) -> None:
    """Train, then forget what came after so many images, as if that had been a kill."""
    train()
    for path in (folder / "checkpoints").glob("[0-9]*"):
        if int(path.name) > images_seen:
            shutil.rmtree(path)
    for path in folder.glob("seen-*.jsonl"):
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(line for line in lines if json.loads(line)[0] < images_seen))


@pytest.mark.parametrize(
    ("way", "settings"),
    [
        pytest.param("two", [], marks=pytest.mark.slow),
        ("two_trees", [TREE]),
        pytest.param("cut", [FULL], marks=pytest.mark.slow),
    ],
)
def test_a_killed_rank_is_replaced_and_no_bit_changes(way: str, settings, tmp_path, request):
    final = train_with_two(tmp_path, *settings, "die_at=64", max_restarts=1)
    assert (tmp_path / "died").exists()
    assert len(list(tmp_path.glob("started-*"))) == 4, "both ranks are started again"
    assert final["resumed_from"] in ([24], [48])  # the kill may come before the disk is done
    assert final["sha256"] == final_of(request.getfixturevalue(way))["sha256"]


def test_the_shares_of_the_workers_cover_the_batch():
    with join_workers() as workers:
        assert workers.num_processes == 1
        assert workers.share_of(8) == slice(0, 8)
    assert alone().largest(3) == 3
