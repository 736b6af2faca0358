"""`make retrain`: bring every artifact up to date, judge and register; the alias stays where it is.

The version is not signed here: this process and all that it starts never have the private key.
`make sign` (infra/github/sign.py) signs, `make register` (infra/github/register.py) completes.

The same stages, by DVC alone, that the flow `experiment` runs; what each made, and its entry of the
run cache, is pushed before the next one starts. So neither a lost machine nor credentials that ran
out lose more than one, and what was made once is not made again, whatever the gates said of it.
"""

import os
import shutil
import sys
from pathlib import Path

from infra.github.commits import commit_file, git
from vivero.cli.planning import stage_order
from vivero.config.environment import read_environment
from vivero.config.paths import project_dir, work_dir
from vivero.errors import ConfigError, StageError
from vivero.files import write_text
from vivero.processes import run_in_group, run_program
from vivero.storage.stores import mend_run_cache

ACTS = ("check_drift", "judge", "register")  # not promote: who may is asked by promote.yml
KEYS = ("VIVERO_SIGNING_KEY", "VIVERO_SIGNING_KEY_PASSWORD", "VIVERO_SIGNING_KEY_PEM")
DVC, VIVERO = ("-m", "dvc"), ("-m", "vivero.cli.app")


def retrain(root: Path, *, force: bool, has_new_data: bool) -> None:
    """Run everything up to the registered version, which waits for its signature.

    Args:
        root: The checkout; its dvc.lock is written.
        force: Run every stage, also those that are up to date.
        has_new_data: Bring new images in first, as the flow `refresh-data` does.

    Raises:
        ConfigError: When there is no place that new images come from.
        StageError: When a step fails; its own message stands above.
    """
    shutil.rmtree(unsigned_dir(root), ignore_errors=True)
    shares = use_remote(root)
    run_python(root, "data", *VIVERO, "data", "fetch")
    if has_new_data:
        take_in(root)
    make_all(root, shares=shares, force=force)
    for act in ACTS:
        run_python(root, act, "-m", f"vivero.stages.{act}", **unsigned(root))


def make_all(root: Path, *, shares: bool, force: bool) -> None:
    """Bring every stage up to date; each is made, or brought from the run cache, then pushed.

    Args:
        root: The checkout; its data/ is here already.
        shares: Whether there is a remote to bring from and to push to.
        force: Run every stage, also those that are up to date.

    Raises:
        StageError: When a stage or a transfer fails.
    """
    mend_run_cache(root)
    options = ["--pull", "--allow-missing"] if shares else []
    if force:
        options += ["--force", "--single-item"]
    if shares:
        _push(root, "data.dvc")
    for stage in stage_order(root):
        run_python(root, stage, *DVC, "repro", *options, stage)
        if shares:
            _push(root, stage)
    if shares:
        run_python(root, "pull", *DVC, "pull", "--quiet")


def _push(root: Path, target: str) -> None:
    """Send what a stage made and that it made it: without its run cache it would be made again."""
    run_python(root, f"push of {target}", *DVC, "push", "--quiet", "--run-cache", target)


def take_in(root: Path) -> None:
    """Add what VIVERO_INCOMING holds to data/, move data.dvc, validate, commit data.dvc.

    Committed before the training, so that its lineage names a clean tree; `make propose` makes the
    same commit again.
    """
    source = read_environment().vivero_incoming
    if not source:
        raise ConfigError(
            "new images were announced, but VIVERO_INCOMING does not say where they are; set it "
            "to a folder or an s3:// prefix"
        )
    run_python(root, "import", *VIVERO, "data", "import", source, "--out", "data", "--append")
    _move_to_what_is_valid(root)
    commit_file(root, "data.dvc")


def _move_to_what_is_valid(root: Path) -> None:
    """Move data.dvc, then validate: a stage reads only what data.dvc says. A failure undoes it."""
    path = root / "data.dvc"
    before = path.read_text(encoding="utf-8")
    run_python(root, "dvc add", *DVC, "add", "--quiet", "data")
    try:
        run_python(root, "validate_data", "-m", "vivero.stages.validate_data")
    except BaseException:
        write_text(path, before)
        git(root, "add", "--", "data.dvc")  # dvc add has staged the new one (core.autostage)
        raise


def use_remote(root: Path) -> bool:
    """Point this checkout at VIVERO_DVC_REMOTE; whether there is one.

    A copy from S3 is held against its hash when it arrives (verify), which is not DVC's default.
    """
    address = read_environment().vivero_dvc_remote
    if not address:
        return False
    run_python(root, "remote", *DVC, "remote", "add", "--local", "--default", "-f", "runs", address)
    if address.startswith("s3:"):
        run_python(root, "remote", *DVC, "remote", "modify", "--local", "runs", "verify", "true")
    return True


def unsigned_dir(root: Path) -> Path:
    """Folder in which a version waits for its signature."""
    return work_dir(root) / "unsigned"


def unsigned(root: Path) -> dict[str, str]:
    """The variable that has `register` leave what must be signed there."""
    return {"VIVERO_UNSIGNED_DIR": str(unsigned_dir(root))}


def run_python(root: Path, step: str, *arguments: str, **variables: str) -> None:
    """Run `python ARGUMENTS` without any signing key.

    Raises:
        StageError: When it fails.
    """
    bin_dir = str(Path(sys.executable).parent)
    path = os.pathsep.join([bin_dir, os.environ.get("PATH", "")])
    env = {**os.environ, "PATH": path, **variables}
    env = {name: value for name, value in env.items() if name not in KEYS}
    exit_code = run_in_group([sys.executable, *arguments], cwd=root, env=env)
    if exit_code:
        raise StageError(step, exit_code)


def _switch(name: str) -> bool:
    value = os.environ.get(name, "false")
    if value not in ("true", "false"):
        raise ConfigError(f"{name} must be true or false; got {value!r}")
    return value == "true"


def main() -> None:
    """Retrain; 1 = a step failed."""
    retrain(project_dir(), force=_switch("FORCE"), has_new_data=_switch("HAS_NEW_DATA"))


if __name__ == "__main__":
    run_program("retrain", main)
