"""`make register`: store the signature that `make sign` made, and leave what can be proposed.

What a pull request then proposes is in work/proposal: dvc.lock, data.dvc, verdict.json and
registered.json.
"""

import shutil
from pathlib import Path

from infra.github.outputs import add_summary, set_outputs
from infra.github.retrain import run_python, unsigned, unsigned_dir
from vivero.config.paths import artifacts_dir, project_dir, work_dir
from vivero.errors import ConfigError
from vivero.files import read_json
from vivero.processes import run_program
from vivero.registry.signing_requests import unsigned_requests


def register(root: Path) -> dict[str, object]:
    """Complete the version; returns the verdict of the gate.

    Raises:
        ConfigError: When the version is not signed yet.
        StageError: When the registry refuses; its own message is above.
    """
    run_python(root, "register", "-m", "vivero.stages.register", **unsigned(root))
    if unsigned_requests(unsigned_dir(root)):
        raise ConfigError("a version waits for its signature; run `make sign`, then this again")
    shutil.rmtree(unsigned_dir(root), ignore_errors=True)
    verdict: dict[str, object] = read_json(artifacts_dir(root, "judge") / "verdict.json")
    return verdict


def collect(root: Path, folder: Path) -> None:
    """Copy what a pull request proposes, and its reasons, into folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    made = [artifacts_dir(root, "judge") / "verdict.json"]
    made += [artifacts_dir(root, "register") / "registered.json"]
    for path in (root / "dvc.lock", root / "data.dvc", *made):
        shutil.copyfile(path, folder / path.name)


def main() -> None:
    """Register and hand on the verdict; 1 = a step failed."""
    root = project_dir()
    verdict = register(root)
    collect(root, work_dir(root) / "proposal")
    set_outputs({"verdict": str(verdict["verdict"])})
    add_summary(f"### Verdict\n\n`{verdict['verdict']}`; the pull request has the gates.")


if __name__ == "__main__":
    run_program("register", main)
