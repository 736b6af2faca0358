"""A run's own clone: made from VIVERO_REPOSITORY, with the stores that all runs share, then kept.

    VIVERO_RUNS_DIR/
        <name of the run>-<its id>/   the clone; nobody else's, held by a lock while the run works;
                                      work/flow in it names the flow, of each the newest five stay
        .shared/cache/                DVC's cache: written by content, safe for many at once
        .shared/checkpoints/          one folder a fingerprint; a trainer locks the one it writes
        .shared/alarms/               one folder an alarm: the page that the monitor wrote of it

So two runs never share a workspace, and a run after a crash finds the last checkpoint of equal
inputs. Without VIVERO_REPOSITORY a flow works in the repository where it was started.
"""

import configparser
import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from prefect import runtime
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_exponential

from pipelines.commands import git
from vivero.config.environment import read_environment
from vivero.config.load import load_config
from vivero.config.paths import PARAMS, project_dir, work_dir
from vivero.errors import ConfigError, RemoteError
from vivero.files import write_whole

KEEP_CLONES, KEEP_FINGERPRINTS, KEEP_ALARMS = 5, 10, 50
SHARED = ".shared"
FLOW = "flow"  # file below work/ of a clone, with the name of the flow that it was made for
BASE = "refs/vivero/base"  # the commit that a run was cloned at

patiently = retry(
    retry=retry_if_exception_type(RemoteError),
    stop=stop_after_attempt(5),
    wait=wait_exponential(multiplier=2, max=60),
    reraise=True,
)


@dataclass(frozen=True)
class House:
    """Where runs come from, work, and leave what they made.

    Attributes:
        repository: Address that git clones from and pushes to.
        runs_dir: Folder of the clones.
        remote: Address of the DVC remote; None = what the repository itself says.
    """

    repository: str
    runs_dir: Path
    remote: str | None


@dataclass(frozen=True)
class Workspace:
    """Where a run works. name: of its clone; None when it is the repository itself."""

    root: Path
    name: str | None


def run_name() -> str:
    """Name of the flow run that we are in, and the start of its id: names come again."""
    return f"{runtime.flow_run.name}-{str(runtime.flow_run.id)[:8]}"


def _flow_name() -> str:
    return str(runtime.flow_run.flow_name or "")


def house() -> House | None:
    """What the environment says; None when runs work in the repository itself.

    Raises:
        ConfigError: When a run in a clone would lose its record.
    """
    env = read_environment()
    if env.vivero_repository is None:
        return None
    if env.mlflow_tracking_uri is None:
        raise ConfigError(
            "VIVERO_REPOSITORY is set, but MLFLOW_TRACKING_URI is not: the record of a run would "
            "go away with its clone. Set it to the address of the MLflow server"
        )
    runs_dir = env.vivero_runs_dir or work_dir(project_dir()) / "runs"
    return House(
        repository=env.vivero_repository,
        runs_dir=runs_dir.resolve(),
        remote=env.vivero_dvc_remote,
    )


def incoming_address(root: Path, source: str | None = None) -> str:
    """Where new images come in: a relative folder is the driver's, not a run's own."""
    watched = read_environment().vivero_incoming or load_config(root / PARAMS).monitor.source
    address = source or watched
    return address if "://" in address else str((project_dir() / address).resolve())


@contextlib.contextmanager
def own_workspace(run_name: str, ref: str) -> Iterator[Workspace]:
    """The clone of a run, made or found again; or the repository itself.

    Args:
        run_name: Unique to the run; a second start of the same run gets the same clone.
        ref: Branch or tag that is cloned.

    Raises:
        ConfigError: When another process works for this very run.
        RemoteError: When the repository cannot be cloned.
    """
    where = house()
    if where is None:
        yield Workspace(project_dir(), None)
        return
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", run_name)
    root = where.runs_dir / name
    with _alone(where.runs_dir, name):
        if not root.exists():
            _clone(where, ref, root)
        _share_stores(where, root)
        with _doorway(where.runs_dir):
            _prune(where.runs_dir)
        yield Workspace(root, name)
        os.utime(root)


@contextlib.contextmanager
def _alone(runs_dir: Path, name: str) -> Iterator[None]:
    runs_dir.mkdir(parents=True, exist_ok=True)
    lock = FileLock(_lock_path(runs_dir, name))
    try:
        with _doorway(runs_dir):
            lock.acquire(timeout=0)
    except Timeout as error:
        raise ConfigError(
            f"another process works in {runs_dir / name}: this run was started twice. "
            f"Wait for the other, or end it; then start the run again"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _doorway(runs_dir: Path) -> FileLock:
    """Held while the lock of a clone is taken or removed: nobody holds one that is gone."""
    return FileLock(runs_dir / ".lock")


def _lock_path(runs_dir: Path, name: str) -> Path:
    return runs_dir / f".{name}.lock"


@patiently
def _clone(where: House, ref: str, root: Path) -> None:
    """Clone beside, then move: a clone is whole or not there."""
    part = root.with_name(f".{root.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    arguments = ("--quiet", "--depth", "1", f"--branch={ref}")
    git(where.runs_dir, "clone", *arguments, operands=[where.repository, str(part)])
    git(part, "update-ref", BASE, "HEAD")
    work_dir(part).mkdir(exist_ok=True)
    (work_dir(part) / FLOW).write_text(_flow_name())
    part.rename(root)


def _share_stores(where: House, root: Path) -> None:
    """Point the clone at the cache, the remote and the checkpoints of all runs."""
    shared = where.runs_dir / SHARED
    config = configparser.ConfigParser(interpolation=None)
    config["cache"] = {"dir": str(shared / "cache")}
    if where.remote is not None:
        config["core"] = {"remote": "runs"}
        config['remote "runs"'] = {"url": where.remote}
        if where.remote.startswith("s3:"):
            config['remote "runs"']["verify"] = "true"
    with write_whole(root / ".dvc" / "config.local") as path, path.open("w") as file:
        config.write(file)
    checkpoints = shared / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    work_dir(root).mkdir(exist_ok=True)
    link = work_dir(root) / "checkpoints"
    if not link.is_symlink():
        link.symlink_to(checkpoints, target_is_directory=True)


def keep_alarm(workspace: Workspace, folder: Path, key: str) -> Path:
    """Copy an alarm's folder to where it outlives the clone of the run that saw it.

    Args:
        workspace: Of the run.
        folder: What the monitor left.
        key: Of the alarm; the first copy under a key stays.

    Returns:
        Where it lies now; the folder itself where runs have no clones of their own.
    """
    where = house()
    if where is None or workspace.name is None:
        return folder
    kept = where.runs_dir / SHARED / "alarms" / re.sub(r"[^A-Za-z0-9._-]+", "-", key)
    if not kept.exists():
        part = kept.with_name(f".{kept.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(folder, part)
        part.rename(kept)
        for old in _older([path for path in kept.parent.iterdir()], KEEP_ALARMS):
            shutil.rmtree(old, ignore_errors=True)
    return kept


def _prune(runs_dir: Path) -> None:
    """Remove all but the newest clones and checkpoints; never one that somebody works in.

    Of clones the newest of our own flow stay, whatever the other flows do: a monitor that runs
    every hour takes no crashed experiment away.
    """
    clones = [path for path in runs_dir.iterdir() if path.is_dir() and path.name[0] != "."]
    ours = [clone for clone in clones if _flow_of(clone) == _flow_name()]
    for clone in _older(ours, KEEP_CLONES):
        _remove_unused(clone, _lock_path(runs_dir, clone.name))
    fingerprints = [path for path in (runs_dir / SHARED / "checkpoints").iterdir()]
    for folder in _older(fingerprints, KEEP_FINGERPRINTS):
        _remove_unused(folder, folder / ".lock")


def _flow_of(clone: Path) -> str:
    path = work_dir(clone) / FLOW
    return path.read_text() if path.exists() else ""


def _older(folders: list[Path], keep: int) -> list[Path]:
    return sorted(folders, key=lambda path: path.stat().st_mtime, reverse=True)[keep:]


def _remove_unused(folder: Path, lock_path: Path) -> None:
    with contextlib.suppress(Timeout), FileLock(lock_path, timeout=0):
        shutil.rmtree(folder, ignore_errors=True)
        lock_path.unlink(missing_ok=True)


def propose(workspace: Workspace, path: str, message: str, prefix: str = "runs/") -> str | None:
    """Commit one file of a clone on a branch of its run and push it, if it changed.

    The commit depends on its content and its parent alone (its date is its parent's), so a run
    that ends with what another one ended with makes the very same commit: it is not pushed twice.

    Returns:
        The branch it lies on, ours or the other run's; None when nothing changed.

    Raises:
        RemoteError: When the repository does not take it.
    """
    root = workspace.root
    if git(root, "status", "--porcelain", "--", path):
        date = git(root, "log", "-1", "--format=%cI")
        who = ("-c", "user.name=Vivero", "-c", "user.email=vivero@localhost")
        command = (*who, "-c", "commit.gpgsign=false", "commit", "--quiet", "-m", message)
        dates = {"GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": date}
        git(root, *command, "--only", "--", path, env=dates)
    if git(root, "rev-parse", "HEAD") == git(root, "rev-parse", BASE):
        return None
    return _push(root, prefix, f"{prefix}{workspace.name}")


@patiently
def _push(root: Path, prefix: str, branch: str) -> str:
    commit = git(root, "rev-parse", "HEAD")
    for line in git(root, "ls-remote", operands=["origin", f"refs/heads/{prefix}*"]).splitlines():
        there, name = line.split("\t")
        if there == commit:
            return name.removeprefix("refs/heads/")
    git(root, "push", "--quiet", operands=["origin", f"HEAD:refs/heads/{branch}"])
    return branch
