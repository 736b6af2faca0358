"""Trainings that meet a full or read-only disk: `python -m tests.proofs.disks KIND FOLDER POINTS`.

Prints one JSON line for each point: what the training said, which checkpoints were whole before
and after, and whether it ended as a training without trouble once the disk was well again.
"""

import contextlib
import json
import logging
import os
import resource
import sys
from pathlib import Path

import torch

from tests.proofs import forked
from tests.proofs.faults import count_calls
from tests.unit.training.tiny_run import tiny_run
from vivero.errors import ViveroError
from vivero.training.checkpoints import CheckpointStore, DamagedError, read_checkpoint

NOBODY = 65534
CLEAN_EXIT_CODE = 3


def fill(folder: Path) -> None:
    """Take all that is left of the disk."""
    with contextlib.suppress(OSError), (folder / "ballast").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def limit(_: Path) -> None:
    """From now on no file of this process may become longer than 100 bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))


def forbid(folder: Path) -> None:
    """From now on nothing may be made, renamed or removed here and below checkpoints/."""
    for path in folders_in(folder):
        path.chmod(0o555)


TROUBLES = {"full": fill, "limited": limit, "read-only": forbid}


def heal(folder: Path) -> None:
    (folder / "ballast").unlink(missing_ok=True)
    for path in folders_in(folder):
        path.chmod(0o777)


def folders_in(folder: Path) -> list[Path]:
    return [folder, *(path for path in folder.glob("checkpoints/**") if path.is_dir())]


def train_into_trouble(kind: str, folder: Path, point: int) -> None:
    """Train until the disk refuses, and leave what was said in FOLDER/said."""
    if os.geteuid() == 0:
        os.setuid(NOBODY)  # root may write everywhere

    is_over = False

    def before_call(call: int) -> None:
        nonlocal is_over
        if call >= point and not is_over:
            is_over = True  # looking at checkpoints makes calls as well
            (folder / "whole-before").write_text(json.dumps(whole_in(folder)))
            TROUBLES[kind](folder)

    count_calls(folder, before_call)
    said_path = os.open(folder / "said", os.O_WRONLY | os.O_CREAT)
    os.write(said_path, b" " * 2000)  # its place on the disk is taken in time
    try:
        tiny_run(folder, **forked.CHANGES).go()
    except ViveroError as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        os.pwrite(said_path, f"{type(error).__name__}: {error}".encode(), 0)
        os._exit(CLEAN_EXIT_CODE)


def whole_in(folder: Path) -> list[str]:
    """Names of the checkpoints that are whole."""
    names = []
    for path in sorted((folder / "checkpoints").glob("[0-9]*")):
        with contextlib.suppress(DamagedError):
            read_checkpoint(path)
            names.append(path.name)
    return names


def outcome(kind: str, folder: Path, point: int, sha256: str) -> dict[str, object]:
    folder.mkdir()
    if os.geteuid() == 0:
        os.chown(folder, NOBODY, NOBODY)
    pid = forked.fork(lambda: train_into_trouble(kind, folder, point))
    exit_code = forked.end_of(pid)
    before = json.loads((folder / "whole-before").read_text())
    after = whole_in(folder)
    newest = CheckpointStore(folder / "checkpoints", keep=2).newest()
    heal(folder)
    return {
        "point": point,
        "exit_code": exit_code,
        "said": (folder / "said").read_text().strip(),
        "before": before,
        "after": after,
        "newest": newest.path.name if newest else None,
        "is_identical": forked.final_of(folder).sha256 == sha256,
    }


def main() -> None:
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.ERROR)
    kind, folder, num_points = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    folder.chmod(0o777)
    whole = forked.final_of(folder / "whole")
    num_calls = int(0.9 * whole.num_calls)  # the last ones only remove
    for number in range(num_points):
        point = number * num_calls // num_points
        sys.stdout.write(
            json.dumps(outcome(kind, folder / f"at-{point}", point, whole.sha256)) + "\n"
        )


if __name__ == "__main__":
    main()
