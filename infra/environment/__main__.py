"""`make setup` and `make lock`: the environment in .venv, and the hashes it is installed from.

    python -m infra.environment            # install, unless .venv is up to date
    python -m infra.environment check      # only say whether it is
    python -m infra.environment lock       # write the lock files again (UPGRADE=1: newer versions)

Standard library only: this code runs before anything is installed. Every file that pip and uv
install is checked against a hash of a lock file (docs/decisions/0028-*).
"""

import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

VENV = ".venv"
STATE = f"{VENV}/.installed"
LOCK = "requirements.lock"  # every package, for all platforms and both versions of Python
FOLDER = "infra/environment"
INSTALLER_LOCK = f"{FOLDER}/installer.lock"  # uv, which pip installs
CPU_LOCK = f"{FOLDER}/torch-cpu.lock"  # builds of torch without CUDA, which no index has
INPUTS = ("pyproject.toml", LOCK, INSTALLER_LOCK, CPU_LOCK)
ROOTS = ("pyproject.toml", "--extra", "dev")
RESOLVE = ("--universal", "--generate-hashes", "--no-header", "--no-annotate", "--quiet")
NO_ADDRESSES = ("--no-emit-index-url", "--no-emit-find-links")
# Never in the environment of what pip and uv run: tokens of a workflow, keys of a cloud and ours.
SECRETS = ("ACTIONS_", "AWS_", "GH_TOKEN", "GITHUB_TOKEN", "MLFLOW_", "PREFECT_", "VIVERO_")
FORBIDDEN = {
    os.pathsep: "':', which separates the folders of PATH",
    "\n": "a line break",
    "%": "'%', which MLflow's migrations of its database take for a variable",
    "?": "'?', which ends the path in the address of a database",
}


class SetupError(Exception):
    """The environment cannot be made; the message says what to do."""


def read_state(root: Path) -> dict[str, str]:
    """What .venv was made from; empty when it was not made completely."""
    try:
        found = json.loads((root / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def wanted_state(root: Path) -> dict[str, str]:
    """What .venv must be made from: this folder, and these inputs."""
    state = {"folder": str(root)}
    for name in INPUTS:
        state[name] = hashlib.sha256((root / name).read_bytes()).hexdigest()
    return state


def write_state(root: Path) -> None:
    """Record that .venv is complete."""
    (root / STATE).write_text(json.dumps(wanted_state(root), indent=2) + "\n", encoding="utf-8")


def is_current(root: Path) -> bool:
    """Whether .venv was made in this folder, from these inputs, and its Python still exists."""
    return (root / VENV / "bin/python").exists() and read_state(root) == wanted_state(root)


def set_up(root: Path) -> None:
    """Make .venv, unless it is up to date.

    Raises:
        SetupError: When it cannot be made.
    """
    refuse_folder(root)
    if is_current(root):
        return
    if not (3, 11) <= sys.version_info[:2] < (3, 13):
        raise SetupError(
            f"Vivero needs Python 3.11 or 3.12, found {sys.version.split()[0]}; "
            f"run: make setup PYTHON=python3.11"
        )
    venv = root / VENV
    if venv.is_symlink():
        raise SetupError(f"{VENV} is a link to {venv.readlink()}; remove it, then: make setup")
    if not os.access(root, os.W_OK):
        raise SetupError(
            f"{VENV} must be made, but you may not write to {root}; copy the clone to a folder of "
            f"yours (git clone {shlex.quote(str(root))} vivero), and run make setup there"
        )
    other = read_state(root).get("folder", str(root))
    if other != str(root):
        say(f"{VENV} was made in {other}, so it runs the code of that folder; making it again here")
    (root / STATE).unlink(missing_ok=True)
    install(root)
    write_state(root)


def check(root: Path) -> None:
    """Install nothing.

    Raises:
        SetupError: When .venv is not up to date.
    """
    refuse_folder(root)
    if not is_current(root):
        raise SetupError(
            f"{VENV} is not up to date in {root}; run `make setup` first. This target may be given "
            f"secrets, so it installs nothing itself"
        )


def refuse_folder(root: Path) -> None:
    """Refuse a folder in which no Python environment can work.

    Raises:
        SetupError: It names the character.
    """
    for character, meaning in FORBIDDEN.items():
        if character in str(root):
            raise SetupError(
                f"the path of this folder contains {meaning}, so not all of Vivero works in it: "
                f"{str(root)!r}. Rename the folder, then: make setup"
            )


def install(root: Path) -> None:
    """Make .venv from the lock files.

    Raises:
        SetupError: When a step fails; pip and uv have already said why.
    """
    python = install_uv(root)
    uv_install = (python, "-m", "uv", "pip", "install", "--quiet", "--python", python)
    hashed = ("--require-hashes", "--require-build-hashes", "--build-constraints", LOCK)
    override = ("--override", CPU_LOCK) if has_cpu_build(root, python) else ()
    run(root, *uv_install, *hashed, "--requirement", *ROOTS, "--constraints", LOCK, *override)
    run(root, *uv_install, "--no-deps", "--no-build-isolation", "--editable", ".")


def install_uv(root: Path) -> str:
    """Make an empty .venv with uv in it; returns its Python."""
    run(root, sys.executable, "-m", "venv", "--clear", VENV)
    python = str(root / VENV / "bin/python")
    pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    run(root, *pip, "--require-hashes", "--no-deps", "--requirement", INSTALLER_LOCK)
    return python


def has_cpu_build(root: Path, python: str) -> bool:
    """Whether uv is told of a build of torch that CPU_LOCK lists (UV_FIND_LINKS, UV_INDEX).

    Raises:
        SetupError: When it is told of another build, whose hash is not known.
    """
    pin = pin_of(root / LOCK)
    found = run(
        root, python, "-m", "uv", "pip", "compile", "-", "--python", python, "--no-deps",
        "--quiet", "--no-header", "--no-annotate", *NO_ADDRESSES, given=pin,
    ).strip()  # fmt: skip
    if found == pin:
        return False
    if found == pin_of(root / CPU_LOCK):
        return True
    raise SetupError(
        f"uv is offered {found}, but the lock files have hashes of {pin} and "
        f"{pin_of(root / CPU_LOCK)} only; unset UV_FIND_LINKS, PIP_FIND_LINKS and UV_INDEX to "
        f"take the build of the index"
    )


def pin_of(path: Path) -> str:
    """The line `torch==VERSION` of a lock file, without its hashes."""
    found = re.search(r"^torch==\S+", path.read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise SetupError(f"{path.name} names no version of torch; restore it: git checkout {path}")
    return found.group()


def lock(root: Path) -> None:
    """Write the lock files from pyproject.toml; versions stay, unless UPGRADE=1.

    A new dependency is not in the lock yet, so `make setup` cannot come first: uv alone is enough.

    Raises:
        SetupError: When pyproject.toml asks for what cannot be had.
    """
    upgrade = ("--upgrade",) if os.environ.get("UPGRADE") == "1" else ()
    python = root / VENV / "bin/python"
    has_uv = any((root / VENV).glob("lib/python3*/site-packages/uv"))
    uv = (str(python) if has_uv else install_uv(root), "-m", "uv", "pip", "compile")
    compile_ = (*uv, *RESOLVE, *NO_ADDRESSES, *upgrade)
    local = ("UV_FIND_LINKS", "UV_INDEX", "UV_EXTRA_INDEX_URL")  # a build of one machine
    env = {name: value for name, value in os.environ.items() if name not in local}
    run(root, *compile_, *ROOTS, "--output-file", LOCK, env=env)
    pin = re.search(r"^uv==\S+", (root / INSTALLER_LOCK).read_text(encoding="utf-8"), re.MULTILINE)
    wanted = "uv" if upgrade or pin is None else pin.group()
    run(root, *compile_, "-", "--output-file", INSTALLER_LOCK, given=wanted, env=env)
    lock_cpu_builds(root)


def lock_cpu_builds(root: Path) -> None:
    """Add the builds of torch in the folder UV_FIND_LINKS, when it has some, to CPU_LOCK."""
    version = pin_of(root / LOCK).partition("==")[2]
    known = ""
    if pin_of(root / CPU_LOCK) == f"torch=={version}+cpu":
        known = (root / CPU_LOCK).read_text(encoding="utf-8")
    hashes = set(re.findall(r"sha256:[0-9a-f]{64}", known))
    folder = Path(os.environ.get("UV_FIND_LINKS") or os.devnull)
    for wheel in sorted(folder.glob(f"torch-{version}+cpu-*.whl")):
        hashes.add("sha256:" + hashlib.sha256(wheel.read_bytes()).hexdigest())
    if not hashes:
        say(f"{CPU_LOCK} has no build of torch {version}, nor has the folder UV_FIND_LINKS")
        return
    rows = [f"torch=={version}+cpu", *(f"    --hash={found}" for found in sorted(hashes))]
    (root / CPU_LOCK).write_text(" \\\n".join(rows) + "\n", encoding="utf-8")


def run(
    root: Path, *command: str, given: str | None = None, env: dict[str, str] | None = None
) -> str:
    """Run a step; returns what it wrote to its output where `given` is its input.

    Raises:
        SetupError: When it fails.
    """
    captured = subprocess.PIPE if given is not None else None
    own = dict(os.environ) if env is None else env
    own = {name: value for name, value in own.items() if not name.startswith(SECRETS)}
    done = subprocess.run(command, cwd=root, input=given, stdout=captured, text=True, env=own)
    if done.returncode:
        raise SetupError(f"`{' '.join(command[1:5])} ...` failed; its message is above")
    return done.stdout or ""


def say(text: str) -> None:
    """Write a line to the terminal."""
    sys.stderr.write(f"setup: {text}\n")


def main() -> None:
    """Install, check, or lock."""
    commands = {"": set_up, "check": check, "lock": lock}
    try:
        commands[" ".join(sys.argv[1:])](Path.cwd())
    except SetupError as error:
        sys.exit(f"setup: {error}")
    except OSError as error:
        sys.exit(f"setup: {error}; make setup starts again")


if __name__ == "__main__":
    main()
