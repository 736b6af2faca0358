"""`make retrain`: bring every artifact up to date, judge and register; the alias stays where it is.

The same stages, by DVC alone, that the flow `experiment` runs; what each made, and its entry of the
run cache, is pushed before the next one starts. So neither a lost machine nor credentials that ran
out lose more than one, and what was made once is not made again, whatever the gates said of it.
What a pull request then proposes lies in work/proposal: dvc.lock, data.dvc, verdict.json and
registered.json.
"""

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from infra.github.commits import commit_file, git
from infra.github.outputs import add_summary, set_outputs
from vivero.cli.planning import stage_order
from vivero.config.environment import read_environment
from vivero.config.paths import artifacts_dir, project_dir, work_dir
from vivero.errors import ConfigError, StageError, ViveroError
from vivero.files import read_json, write_text
from vivero.processes import run_in_group, run_program
from vivero.storage.stores import mend_run_cache

ACTS = ("check_drift", "judge", "register")  # not promote: who may is asked by promote.yml
DVC, VIVERO = ("-m", "dvc"), ("-m", "vivero.cli.app")


def retrain(root: Path, *, force: bool, has_new_data: bool) -> dict[str, object]:
    """Run everything up to the registered version; returns the verdict of the gate.

    Args:
        root: The checkout; its dvc.lock is written.
        force: Run every stage, also those that are up to date.
        has_new_data: Bring new images in first, as the flow `refresh-data` does.

    Raises:
        ConfigError: When there is no place that new images come from.
        StageError: When a step fails; its own message stands above.
    """
    pem = os.environ.pop("VIVERO_SIGNING_KEY_PEM", "")
    shares = use_remote(root)
    _python(root, "data", *VIVERO, "data", "fetch")
    if has_new_data:
        take_in(root)
    make_all(root, shares=shares, force=force)
    for act in ACTS:
        with signing_key(pem if act == "register" else "") as key:  # the others verify, at most
            _python(root, act, "-m", f"vivero.stages.{act}", **key)
    verdict: dict[str, object] = read_json(artifacts_dir(root, "judge") / "verdict.json")
    return verdict


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
        _python(root, stage, *DVC, "repro", *options, stage)
        if shares:
            _push(root, stage)
    if shares:
        _python(root, "pull", *DVC, "pull", "--quiet")


def _push(root: Path, target: str) -> None:
    """Send what a stage made and that it made it: without its run cache it would be made again."""
    _python(root, f"push of {target}", *DVC, "push", "--quiet", "--run-cache", target)


@contextlib.contextmanager
def signing_key(pem: str) -> Iterator[dict[str, str]]:
    """A private key as a file of ours alone, for as long as it is needed.

    Args:
        pem: The key; empty = what `vivero register` finds by itself.

    Yields:
        Variables for the process that signs.
    """
    if not pem:
        yield {}
        return
    with tempfile.TemporaryDirectory() as folder:  # mode 0700
        path = Path(folder) / "signing_key.pem"
        path.touch(mode=0o600)
        path.write_text(pem.rstrip() + "\n", encoding="utf-8")
        yield {"VIVERO_SIGNING_KEY": str(path)}


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
    _python(root, "import", *VIVERO, "data", "import", source, "--out", "data", "--append")
    _move_to_what_is_valid(root)
    commit_file(root, "data.dvc")


def _move_to_what_is_valid(root: Path) -> None:
    """Move data.dvc, then validate: a stage reads only what data.dvc says. A failure undoes it."""
    path = root / "data.dvc"
    before = path.read_text(encoding="utf-8")
    _python(root, "dvc add", *DVC, "add", "--quiet", "data")
    try:
        _python(root, "validate_data", "-m", "vivero.stages.validate_data")
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
    _python(root, "remote", *DVC, "remote", "add", "--local", "--default", "-f", "runs", address)
    if address.startswith("s3:"):
        _python(root, "remote", *DVC, "remote", "modify", "--local", "runs", "verify", "true")
    return True


def collect(root: Path, folder: Path) -> None:
    """Copy what a pull request proposes, and what it says, into folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    made = [artifacts_dir(root, "judge") / "verdict.json"]
    made += [artifacts_dir(root, "register") / "registered.json"]
    for path in (root / "dvc.lock", root / "data.dvc", *made):
        shutil.copyfile(path, folder / path.name)


def _python(root: Path, step: str, *arguments: str, **variables: str) -> None:
    bin_dir = str(Path(sys.executable).parent)
    path = os.pathsep.join([bin_dir, os.environ.get("PATH", "")])
    env = {**os.environ, "PATH": path, **variables}
    exit_code = run_in_group([sys.executable, *arguments], cwd=root, env=env)
    if exit_code:
        raise StageError(step, exit_code)


def _switch(name: str) -> bool:
    value = os.environ.get(name, "false")
    if value not in ("true", "false"):
        raise ConfigError(f"{name} must be true or false; got {value!r}")
    return value == "true"


def main() -> None:
    """Retrain and hand on the verdict; 1 = a step failed."""
    root = project_dir()
    try:
        verdict = retrain(root, force=_switch("FORCE"), has_new_data=_switch("HAS_NEW_DATA"))
        collect(root, work_dir(root) / "proposal")
    except ViveroError as error:
        sys.exit(f"retrain: {error}")
    set_outputs({"verdict": str(verdict["verdict"])})
    add_summary(f"### Verdict\n\n`{verdict['verdict']}`; the pull request has the gates.")


if __name__ == "__main__":
    run_program("retrain", main)
