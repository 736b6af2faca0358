"""No torn or rotten checkpoint is ever believed: the last whole one is taken, and it is said why.

Over all files of a real checkpoint, in turn: 200 cuts, 1,000 flipped bits, every block of 4 kB
zeroed, empty, missing.
"""

import itertools
import logging
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from tests.unit.training.tiny_run import tiny_run
from vivero.training.checkpoints import CheckpointStore

BLOCK_BYTES = 4096
NUM_CUTS, NUM_FLIPS = 200, 1000


@dataclass(frozen=True)
class Damage:
    """A file of the newest checkpoint and its new content; None = it is missing."""

    path: Path
    content: bytes | None


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def damages(folder: Path) -> Iterator[Damage]:
    rng, paths = random.Random(0), sorted(folder.iterdir())
    contents = {path: path.read_bytes() for path in paths}
    for path in itertools.islice(itertools.cycle(paths), NUM_CUTS):
        yield Damage(path, contents[path][: rng.randrange(len(contents[path]))])
    for path in itertools.islice(itertools.cycle(paths), NUM_FLIPS):
        yield Damage(path, flipped(contents[path], rng.randrange(8 * len(contents[path]))))
    for path, data in contents.items():
        for begin in range(0, len(data), BLOCK_BYTES):
            block = bytes(len(data[begin : begin + BLOCK_BYTES]))
            yield Damage(path, data[:begin] + block + data[begin + BLOCK_BYTES :])
        yield Damage(path, b"")
        yield Damage(path, None)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> CheckpointStore:
    folder = tmp_path_factory.mktemp("trained")
    return tiny_run(folder, total_images=48, checkpoint_every_images=24).go().outlets.store


def test_every_damage_is_found_and_the_last_whole_one_is_taken(
    trained: CheckpointStore, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.WARNING)
    newest_dir = trained.folder / "0000000048"
    whole = (newest_dir / "weights.safetensors").read_bytes()
    num_damages = 0
    for damage in damages(newest_dir):
        former = damage.path.read_bytes()
        if damage.content == former:  # a block that was zero before
            continue
        damage.path.unlink()
        if damage.content is not None:
            damage.path.write_bytes(damage.content)
        caplog.clear()
        found = trained.newest()
        damage.path.write_bytes(former)

        assert found is not None
        assert found.path.name == "0000000024", damage
        said = [record.getMessage() for record in caplog.records]
        assert said[0].startswith("checkpoint 0000000048 is damaged and is skipped: ")
        assert damage.path.name in said[0]
        assert said[1] == "going on from checkpoint 0000000024, the newest whole one"
        num_damages += 1
    assert num_damages > NUM_CUTS + NUM_FLIPS
    found = trained.newest()
    assert found is not None
    assert found.path == newest_dir, "the test itself broke nothing"
    assert (newest_dir / "weights.safetensors").read_bytes() == whole


def test_a_damaged_best_one_is_skipped_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    store = CheckpointStore(tmp_path, keep=3)
    files = {name: {"w": torch.zeros(3)} for name in ("weights", "optimizer")}
    for images_seen, loss in ((8, 0.3), (16, 0.1), (24, 0.2)):
        store.save(images_seen, files, {"validation_loss": loss})
    path = tmp_path / "0000000016" / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    best = store.best()
    assert best is not None
    assert best.facts == {"validation_loss": 0.2}
    assert "the best checkpoint, 0000000016, is damaged" in caplog.text
    assert "weights.safetensors" in caplog.text
