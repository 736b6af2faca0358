"""`make pipeline-small`: the whole job on a small profile, in a clone below work/small.

The clone has a history, a registry and a dvc.lock of its own, so the workspace stays as it is; only
DVC's cache is shared, so that what two clones have in common is made once. The settings of
infra/profiles/small.yaml are written over the clone's params.yaml and committed there.

    python -m infra.github.small_pipeline [--revision HEAD] [--name head]
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from infra.github.commits import git
from vivero.config.paths import PARAMS, project_dir, work_dir
from vivero.errors import ConfigError, StageError, ViveroError
from vivero.processes import run_in_group, run_program
from vivero.tracking.git import resolve_commit

PROFILE = "infra/profiles/small.yaml"
# Of the surroundings; a small run belongs to nobody's server.
NOT_INHERITED = ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", "PREFECT_HOME", "VIVERO_REPOSITORY")


def run_small(root: Path, revision: str, name: str) -> Path:
    """Run `vivero run` on the small profile of a commit; returns the clone.

    Args:
        root: The repository; read only, but for DVC's cache and work/small/NAME.
        revision: Any name of a commit that git understands.
        name: Of the clone; one that is there from another time is replaced.

    Raises:
        ConfigError: When the commit is unknown, or the profile has a name that it does not know.
        StageError: When the pipeline fails; its own message stands above.
    """
    clone = work_dir(root) / "small" / name
    shutil.rmtree(clone, ignore_errors=True)
    _clone(root, revision, clone)
    overrides = YAML(typ="safe").load((root / PROFILE).read_text(encoding="utf-8"))
    apply_overrides(clone / PARAMS, overrides)
    git(clone, "commit", "--quiet", "--all", "--message", "Settings of the small profile")
    cache = _cache_dir(root)
    (clone / ".dvc" / "config.local").write_text(f"[cache]\n    dir = {cache}\n", encoding="utf-8")
    command = [sys.executable, "-m", "vivero.cli.app", "run"]
    exit_code = run_in_group(command, cwd=clone, env=_environment(clone))
    if exit_code:
        raise StageError(f"vivero run ({name}, {revision})", exit_code)
    return clone


def apply_overrides(params_path: Path, overrides: dict[str, Any]) -> None:
    """Set dotted names in a params.yaml, keeping its comments.

    Raises:
        ConfigError: When a name is not there; a profile never adds one.
    """
    yaml = YAML(typ="rt")
    document = yaml.load(params_path.read_text(encoding="utf-8"))
    for name, value in overrides.items():
        *blocks, key = name.split(".")
        block = document
        for part in blocks:
            block = block.get(part, {})
        if key not in block:
            raise ConfigError(f"{PROFILE} sets '{name}', which {params_path} does not have")
        block[key] = value
    with params_path.open("w", encoding="utf-8") as file:
        yaml.dump(document, file)


def _clone(root: Path, revision: str, clone: Path) -> None:
    commit = resolve_commit(root, revision)
    if commit is None:
        raise ConfigError(f"git knows no commit {revision[:80]!r} in {root}")
    clone.parent.mkdir(parents=True, exist_ok=True)
    address = [f"file://{root}", str(clone)]
    git(root, "clone", "--quiet", "--no-checkout", operands=address)
    git(clone, "switch", "--quiet", "--create", "small", revisions=[commit])


def _cache_dir(root: Path) -> str:
    command = [sys.executable, "-m", "dvc", "cache", "dir"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _environment(clone: Path) -> dict[str, str]:
    inherited = {key: value for key, value in os.environ.items() if key not in NOT_INHERITED}
    return {**inherited, "PYTHONPATH": f"{clone / 'src'}{os.pathsep}{clone}"}


def main() -> None:
    """Run it from the command line; 1 = the pipeline failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--revision", default="HEAD")
    parser.add_argument("--name", default="head")
    arguments = parser.parse_args()
    try:
        run_small(project_dir(), arguments.revision, arguments.name)
    except ViveroError as error:
        sys.exit(f"pipeline-small: {error}")


if __name__ == "__main__":
    run_program("pipeline-small", main)
