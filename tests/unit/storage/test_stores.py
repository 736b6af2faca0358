"""DVC's own stores, as a killed run leaves them."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vivero.storage.stores import mend_run_cache


def dvc(root: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)


@pytest.fixture
def reproduced(tmp_path: Path) -> Path:
    """A project of one stage that has run once; its lock and its output are lost since."""
    assert dvc(tmp_path, "init", "--no-scm").returncode == 0
    (tmp_path / "dvc.yaml").write_text(
        "stages:\n  copy:\n    cmd: cp given made\n    deps: [given]\n    outs: [made]\n"
    )
    (tmp_path / "given").write_text("bytes")
    assert dvc(tmp_path, "repro").returncode == 0
    (tmp_path / "made").unlink()
    (tmp_path / "dvc.lock").unlink()
    return tmp_path


def the_folder(root: Path) -> Path:
    (folder,) = (root / ".dvc" / "cache" / "runs").glob("*/*")
    return folder


def test_a_kill_between_folder_and_file_does_not_stop_all_later_runs(reproduced: Path):
    folder = the_folder(reproduced)
    shutil.rmtree(folder)
    folder.mkdir()
    long_ago = time.time() - 60
    os.utime(folder, (long_ago, long_ago))
    assert "NoneType" in dvc(reproduced, "repro").stderr, "DVC has mended this itself: so can we go"
    mend_run_cache(reproduced)
    assert dvc(reproduced, "repro").returncode == 0
    assert (reproduced / "made").read_text() == "bytes"


def test_what_is_in_use_stays(reproduced: Path):
    folder = the_folder(reproduced)
    mend_run_cache(reproduced)
    assert list(folder.iterdir()), "a full folder"
    shutil.rmtree(folder)
    folder.mkdir()
    mend_run_cache(reproduced)
    assert folder.is_dir(), "another run is about to fill it"
