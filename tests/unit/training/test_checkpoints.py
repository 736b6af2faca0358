"""Checkpoints: whole or not there, and the newest whole one wins."""

import contextlib
import errno
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vivero.errors import CheckpointError
from vivero.training import checkpoints
from vivero.training.checkpoints import CheckpointStore, DamagedError, read_checkpoint
from vivero.training.tensor_file import Parts

FILES = ["ema.safetensors", "manifest.json", "optimizer.safetensors", "state.json"]
FILES += ["weights.safetensors"]


def tensors(value: float) -> dict[str, dict[str, torch.Tensor]]:
    return {name: {"layer": torch.full((4,), value)} for name in ("weights", "ema", "optimizer")}


def save(store: CheckpointStore, images_seen: int) -> Path:
    store.save(images_seen, tensors(images_seen), {"images_seen": images_seen})
    return store.folder / f"{images_seen:010d}"


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "fingerprint", keep=2)


def test_reads_back_what_was_saved(store: CheckpointStore):
    path = save(store, 64)
    newest = store.newest()
    assert newest is not None
    assert newest.path == path
    assert newest.facts == {"images_seen": 64}
    assert torch.equal(newest.tensors["ema"]["layer"], torch.full((4,), 64.0))
    assert sorted(p.name for p in path.iterdir()) == FILES


def test_keeps_the_newest_only(store: CheckpointStore):
    for images_seen in (64, 128, 192):
        save(store, images_seen)
    assert sorted(p.name for p in store.folder.iterdir()) == ["0000000128", "0000000192"]


def save_validated(store: CheckpointStore, images_seen: int, loss: float) -> Path:
    facts = {"images_seen": images_seen, "validation_loss": loss}
    store.save(images_seen, tensors(images_seen), facts)
    return store.folder / f"{images_seen:010d}"


def test_the_best_one_stays_beside_the_newest(tmp_path: Path):
    store = CheckpointStore(tmp_path / "fingerprint", keep=1)
    for images_seen, loss in ((64, 0.5), (128, 0.1), (192, 0.4), (256, 0.3)):
        save_validated(store, images_seen, loss)
    assert sorted(p.name for p in store.folder.iterdir()) == ["0000000128", "0000000256"]
    best = store.best()
    assert best is not None
    assert best.facts["images_seen"] == 128


def test_a_damaged_best_one_leaves_the_next_best(store: CheckpointStore, caplog):
    save_validated(store, 64, 0.3)
    (save_validated(store, 128, 0.1) / "weights.safetensors").write_bytes(b"cut")
    best = store.best()
    assert best is not None
    assert best.facts["images_seen"] == 64
    assert "the best checkpoint, 0000000128, is damaged" in caplog.text


def test_without_a_validated_one_there_is_no_best(store: CheckpointStore):
    save(store, 64)
    assert store.best() is None


@pytest.mark.parametrize("name", ["weights", "optimizer"])
def test_a_checkpoint_without_a_required_file_is_damaged(store, caplog, name: str):
    rest = {file: values for file, values in tensors(1.0).items() if file != name}
    store.save(64, rest, {"images_seen": 64})
    assert store.newest() is None
    assert "manifest.json should name" in caplog.text


def test_an_empty_folder_has_none(store: CheckpointStore, caplog):
    assert store.newest() is None
    assert not caplog.records


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "missing"])
def test_falls_back_to_the_last_whole_one_and_names_the_file(store, caplog, file, damage):
    save(store, 64)
    path = save(store, 128) / file
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "flip":
        path.write_bytes(data[:-3] + bytes([data[-3] ^ 1]) + data[-2:])
    else:
        path.write_bytes(data[: len(data) // 2] if damage == "cut" else b"")
    newest = store.newest()
    assert newest is not None
    assert newest.path.name == "0000000064"
    said = caplog.text
    assert "checkpoint 0000000128 is damaged and is skipped" in said
    assert file in said or damage == "flip"  # a flipped manifest may accuse the file it names
    assert "going on from checkpoint 0000000064" in said


def test_says_so_when_none_is_whole(store, caplog):
    (save(store, 64) / "manifest.json").write_text("[]")
    assert store.newest() is None
    assert "no whole checkpoint is left" in caplog.text
    assert "training starts at zero" in caplog.text


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(CheckpointStore(tmp_path_factory.mktemp("saved"), keep=1), 64)


@contextlib.contextmanager
def changed(path: Path, data: bytes) -> Iterator[None]:
    former = path.read_bytes()
    path.write_bytes(data)
    try:
        yield
    finally:
        path.write_bytes(former)


@settings(max_examples=200, deadline=None)
@given(file=st.sampled_from(FILES), where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_no_flipped_bit_is_believed(saved: Path, file: str, where: float, bit: int):
    data = bytearray((saved / file).read_bytes())
    data[int(where * len(data))] ^= 1 << bit
    with changed(saved / file, bytes(data)):
        try:
            checkpoint = read_checkpoint(saved)
        except DamagedError:
            return
    # Only a flip that leaves the manifest's meaning as it was may pass, such as in num_bytes.
    assert file == "manifest.json"
    assert torch.equal(checkpoint.tensors["ema"]["layer"], torch.full((4,), 64.0))


@settings(max_examples=100, deadline=None)
@given(file=st.sampled_from(FILES), where=st.floats(0, 1, exclude_max=True))
def test_no_cut_file_is_believed(saved: Path, file: str, where: float):
    data = (saved / file).read_bytes()
    with (
        changed(saved / file, data[: int(where * len(data))]),
        pytest.raises(DamagedError),
    ):
        read_checkpoint(saved)


def test_a_damaged_newer_one_does_not_displace_what_is_written_now(tmp_path: Path):
    store = CheckpointStore(tmp_path / "fingerprint", keep=1)
    (save(store, 192) / "state.json").unlink()
    save(store, 64)
    newest = store.newest()
    assert newest is not None
    assert [p.name for p in store.folder.iterdir()] == ["0000000064"]


def test_replaces_a_damaged_one_of_the_same_moment(store: CheckpointStore):
    (save(store, 64) / "state.json").unlink()
    save(store, 64)
    assert store.newest() is not None


def test_a_leftover_of_a_kill_is_neither_read_nor_kept(store: CheckpointStore):
    shutil.copytree(save(store, 64), store.folder / ".part-0000000128")
    newest = store.newest()
    assert newest is not None
    assert newest.path.name == "0000000064"
    save(store, 192)
    assert not list(store.folder.glob(".part-*"))


@pytest.mark.parametrize("failing_write", range(5))
@pytest.mark.parametrize(
    ("number", "said"),
    [(errno.ENOSPC, "no space left"), (errno.EROFS, "Read-only"), (errno.EFBIG, "no space left")],
)
def test_a_full_disk_leaves_the_last_whole_one(store, monkeypatch, failing_write, number, said):
    save(store, 64)
    written, calls = checkpoints.write_flushed, []

    def fail(path: Path, parts: Parts) -> None:
        calls.append(path)
        if len(calls) - 1 == failing_write:
            path.write_bytes(b"".join(parts)[:50])
            raise OSError(number, os.strerror(number), str(path))
        written(path, parts)

    monkeypatch.setattr(checkpoints, "write_flushed", fail)
    with pytest.raises(CheckpointError, match=said) as caught:
        save(store, 128)
    assert "Intact: 0000000064" in str(caught.value)
    assert "run the same command again" in str(caught.value)
    assert len(calls) == failing_write + 1
    assert [p.name for p in store.folder.iterdir()] == ["0000000064"]
    assert store.newest() is not None


def test_a_checkpoint_is_on_the_disk_before_and_after_it_gets_its_name(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
):
    """What the system is asked to flush, in order, by path relative to the store's folder."""
    events: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def watched_fsync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        events.append(f"fsync {path.relative_to(store.folder)} {path.stat().st_size > 0}")
        fsync(descriptor)

    def watched_rename(path: Path, target: Path) -> Path:
        events.append(f"rename {path.name} {target.name}")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(Path, "rename", watched_rename)
    save(store, 64)
    part = ".part-0000000064"
    files = ["weights.safetensors", "ema.safetensors", "optimizer.safetensors"]
    assert events == [
        *(f"fsync {part}/{name} True" for name in [*files, "state.json", "manifest.json"]),
        f"fsync {part} True",
        f"rename {part} 0000000064",
        "fsync . True",
    ]


def test_nothing_is_unpickled(store: CheckpointStore, caplog):
    caplog.set_level(logging.INFO)
    path = save(store, 64)
    assert all(not file.read_bytes().startswith((b"\x80", b"PK")) for file in path.iterdir())
