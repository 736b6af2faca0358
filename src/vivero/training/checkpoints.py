"""Checkpoints: whole or not there, checked before use, the newest whole one wins.

work/checkpoints/<fingerprint>/<images seen, ten digits>/ holds safetensors files, state.json and,
written last, manifest.json with the size and sha256 of the others. A checkpoint is made under a
temporary name, flushed to the disk, and appears by one rename: a kill at any moment leaves the
former checkpoints as they were. The newest stay, and the best by validation loss.
"""

import contextlib
import errno
import hashlib
import json
import logging
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from vivero.errors import CheckpointError
from vivero.files import sync
from vivero.training.state import TensorFiles
from vivero.training.tensor_file import Parts, tensor_file

MANIFEST = "manifest.json"
STATE = "state.json"
OF_DAMAGE = {errno.ENOENT, errno.EIO, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, None}
PART_PREFIX = ".part-"
REQUIRED = {"weights.safetensors", "optimizer.safetensors", STATE}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """What a whole checkpoint holds: tensors by file and name, and facts (state.json)."""

    path: Path
    tensors: Mapping[str, Mapping[str, Tensor]]
    facts: Mapping[str, Any]


class DamagedError(Exception):
    """A checkpoint is not whole; the message names the file."""


@dataclass(frozen=True)
class CheckpointStore:
    """The checkpoints of one fingerprint; the newest `keep` of them stay, and the best."""

    folder: Path
    keep: int

    def save(self, images_seen: int, tensors: TensorFiles, facts: Mapping[str, Any]) -> None:
        """Write a checkpoint whole, then remove those that are no longer kept.

        Raises:
            CheckpointError: When the disk is full or refuses; earlier checkpoints are untouched.
        """
        target_dir = self.folder / f"{images_seen:010d}"
        part_dir = self.folder / f"{PART_PREFIX}{target_dir.name}"
        with self._advice(target_dir, part_dir):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._remove_parts()
            part_dir.mkdir()
            _write_files(part_dir, tensors, facts)
            if target_dir.exists():  # a damaged one, since training passed this moment again
                self._remove(target_dir)
            part_dir.rename(target_dir)
            sync(self.folder)
            self._remove_what_is_not_kept(images_seen)

    def newest(self) -> Checkpoint | None:
        """The newest whole checkpoint; each damaged one is skipped with a warning."""
        num_damaged = 0
        for path in reversed(self._paths()):
            try:
                checkpoint = read_checkpoint(path)
            except DamagedError as damage:
                num_damaged += 1
                log.warning("checkpoint %s is damaged and is skipped: %s", path.name, damage)
            else:
                if num_damaged:
                    log.warning("going on from checkpoint %s, the newest whole one", path.name)
                return checkpoint
        if num_damaged:
            log.warning("no whole checkpoint is left in %s; training starts at zero", self.folder)
        return None

    def best(self) -> Checkpoint | None:
        """The whole checkpoint with the least validation loss; None when none was validated.

        One that is damaged is skipped with a warning.
        """
        for path in _by_validation_loss(self._paths()):
            try:
                return read_checkpoint(path)
            except DamagedError as damage:
                log.warning("the best checkpoint, %s, is damaged: %s", path.name, damage)
        return None

    def _paths(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        return sorted(p for p in self.folder.iterdir() if p.is_dir() and p.name.isdecimal())

    def _remove_what_is_not_kept(self, images_seen: int) -> None:
        """Keep the newest and the best; what claims to be newer than now is damaged and goes."""
        past = [path for path in self._paths() if int(path.name) <= images_seen]
        best = _by_validation_loss(past)[:1]
        for path in set(self._paths()) - {*past[-self.keep :], *best}:
            self._remove(path)

    def _remove(self, path: Path) -> None:
        doomed_dir = self.folder / f"{PART_PREFIX}old-{path.name}"
        path.rename(doomed_dir)  # a half removed checkpoint must not keep its name
        shutil.rmtree(doomed_dir)

    def _remove_parts(self) -> None:
        for leftover in self.folder.glob(f"{PART_PREFIX}*"):
            shutil.rmtree(leftover)

    @contextlib.contextmanager
    def _advice(self, target_dir: Path, part_dir: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            shutil.rmtree(part_dir, ignore_errors=True)
            full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
            cause = "no space left on the disk" if full else (error.strerror or str(error))
            kept = [path.name for path in self._paths()]
            raise CheckpointError(
                f"cannot write the checkpoint {target_dir}: {cause}. "
                f"{'Intact: ' + ', '.join(kept) if kept else 'None was saved before'}. "
                f"{'Free some space (`dvc gc -w` clears the cache)' if full else 'Mend this'} "
                f"and run the same command again; it resumes from there"
            ) from error


def _by_validation_loss(paths: Sequence[Path]) -> list[Path]:
    """Those of the checkpoints that were validated, the least loss first."""
    losses = {path: _validation_loss(path) for path in paths}
    return sorted((p for p in paths if math.isfinite(losses[p])), key=losses.__getitem__)


def _validation_loss(path: Path) -> float:
    """What a checkpoint's facts say of it; infinite where they say nothing or are damaged."""
    try:
        facts = (path / STATE).read_bytes()
        if json.loads((path / MANIFEST).read_bytes())[STATE] != _entry([facts]):
            return math.inf
        return float(json.loads(facts)["validation_loss"])
    except (OSError, ValueError, KeyError, TypeError):
        return math.inf


def _write_files(folder: Path, tensors: TensorFiles, facts: Mapping[str, Any]) -> None:
    contents: dict[str, Parts] = {f"{n}.safetensors": tensor_file(t) for n, t in tensors.items()}
    contents[STATE] = [json.dumps(facts, indent=2, allow_nan=False).encode()]
    contents[MANIFEST] = [_manifest(contents)]  # the last one
    for name, parts in contents.items():
        write_flushed(folder / name, parts)
    sync(folder)


def _manifest(contents: Mapping[str, Parts]) -> bytes:
    return json.dumps({name: _entry(parts) for name, parts in contents.items()}, indent=2).encode()


def _entry(parts: Parts) -> dict[str, Any]:
    """What the manifest says of a file."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return {"num_bytes": sum(len(part) for part in parts), "sha256": digest.hexdigest()}


def write_flushed(path: Path, parts: Parts) -> None:
    """Write a file and wait until the disk has it."""
    with path.open("wb") as file:
        file.writelines(parts)
        file.flush()
        os.fsync(file.fileno())


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint; the bytes that were checked are the bytes that are used.

    Raises:
        DamagedError: When a file is missing, altered, cut or not readable.
    """
    contents = _checked_contents(path)
    try:
        facts = json.loads(contents.pop(STATE))
        tensors = {
            name.removesuffix(".safetensors"): safetensors.torch.load(data)
            for name, data in contents.items()
        }
    except (KeyError, ValueError, safetensors.SafetensorError) as error:
        raise DamagedError(f"{STATE} or a safetensors file is not readable: {error}") from error
    return Checkpoint(path, tensors, facts)


def _checked_contents(path: Path) -> dict[str, bytes]:
    manifest_path = path / MANIFEST
    try:
        manifest = manifest_path.read_bytes()
        expected = {str(name): str(entry["sha256"]) for name, entry in json.loads(manifest).items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        _refuse_what_is_no_damage(manifest_path, error)
        raise DamagedError(f"{manifest_path} is missing or not readable: {error}") from error
    if not expected.keys() >= REQUIRED:
        raise DamagedError(f"{manifest_path} should name {sorted(REQUIRED)}")
    contents = {name: _read_checked(path / name, sha256) for name, sha256 in expected.items()}
    if manifest != _manifest({name: [data] for name, data in contents.items()}):
        raise DamagedError(f"{manifest_path} is not the file that was saved")
    return contents


def _refuse_what_is_no_damage(path: Path, error: Exception) -> None:
    """A disk that does not answer, or permissions, may not make a run forget its checkpoints.

    Raises:
        CheckpointError: When the file may be whole behind the error.
    """
    if isinstance(error, OSError) and error.errno not in OF_DAMAGE:
        raise CheckpointError(
            f"{path} cannot be read now ({error.strerror}); it may be whole. Mend this and run the "
            f"same command again, or delete {path.parent} to resume from the one before"
        ) from error


def _read_checked(path: Path, sha256: str) -> bytes:
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        _refuse_what_is_no_damage(path, error)
        raise DamagedError(f"{path}, named by {MANIFEST}, cannot be read: {error}") from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise DamagedError(
            f"{path} is not the file that was saved: {MANIFEST} expects the sha256 "
            f"{sha256[:12]}..., the file of {len(data):,} bytes has another"
        )
    return data
