"""The `run:` lines of the workflows, executed in a fresh checkout as GitHub makes one."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from infra.environment.__main__ import write_state

REPOSITORY = Path(__file__).parents[2]
ENVIRONMENT = Path(sys.prefix)
WORKFLOWS = REPOSITORY / ".github/workflows"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def git(root: Path, *arguments: str) -> None:
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *who, *arguments], cwd=root, check=True)


def tracked_files() -> Iterator[str]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    yield from (name for name in listed.stdout.splitlines() if (REPOSITORY / name).is_file())


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The merge commit of a pull request that changes a seed, two commits deep, detached."""
    origin = tmp_path_factory.mktemp("origin")
    for name in tracked_files():
        (origin / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(REPOSITORY / name, origin / name)
    git(origin, "init", "--quiet", "--initial-branch", "main")
    git(origin, "add", "--all")
    git(origin, "commit", "--quiet", "--message", "base")
    git(origin, "checkout", "--quiet", "-b", "feature")
    params = (origin / "params.yaml").read_text()
    changed = params.replace("  seed: 1\n  sampler:", "  seed: 11\n  sampler:")
    assert changed != params
    (origin / "params.yaml").write_text(changed)
    git(origin, "commit", "--quiet", "--all", "--message", "Another seed of the samples")
    git(origin, "checkout", "--quiet", "main")
    git(origin, "merge", "--quiet", "--no-ff", "--message", "merge", "feature")
    root = tmp_path_factory.mktemp("runner") / "vivero"
    git(origin, "clone", "--quiet", "--depth", "2", f"file://{origin}", str(root))
    git(root, "checkout", "--quiet", "--detach")
    _lend_environment(root)
    return root


def _lend_environment(root: Path) -> None:
    """Installed programs are those of this environment; `.ci/run` is what makes one anew."""
    (root / ".venv").mkdir()
    for name in ("bin", "lib", "pyvenv.cfg"):
        (root / ".venv" / name).symlink_to(ENVIRONMENT / name)
    write_state(root)


def run_lines(workflow: str, job: str) -> list[str]:
    steps = yaml.safe_load((WORKFLOWS / f"{workflow}.yml").read_text())["jobs"][job]["steps"]
    return [step["run"] for step in steps if "run" in step]


def execute(root: Path, line: str, **variables: str) -> str:
    env = {**os.environ, "PYTHONPATH": str(root / "src"), "VIVERO_NUM_THREADS": "1", **variables}
    env.pop("MLFLOW_TRACKING_URI", None)
    done = subprocess.run(
        ["bash", "-e", "-c", line], cwd=root, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{line}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def test_lint_and_types(checkout: Path):
    for line in run_lines("ci", "check"):
        execute(checkout, line)


def test_tests_are_found(checkout: Path):
    """They are what runs here, so they are only collected."""
    for line in run_lines("ci", "test"):
        assert "tests collected" in execute(checkout, line, PYTEST_ADDOPTS="--collect-only -q -n 0")


def test_the_pipeline_and_its_report(checkout: Path):
    lock = (checkout / "dvc.lock").read_bytes()
    assert run_lines("ci", "pipeline") == ["make pipeline-small", "make pull-request-report"]
    for line in run_lines("ci", "pipeline"):
        execute(checkout, line)

    report: dict[str, Any] = json.loads((checkout / "work/report/report.json").read_text())
    head, base = report["head"], report["base"]
    assert head["verdict"] == base["verdict"] == "first"
    assert head["metrics"].keys() == base["metrics"].keys()
    assert head["metrics"] != base["metrics"]  # another seed: other samples
    with Image.open(checkout / "work/report/grid.png") as grid:
        assert grid.width > 200
    assert (checkout / "dvc.lock").read_bytes() == lock
    status = ["git", "status", "--porcelain"]
    assert not subprocess.run(status, cwd=checkout, capture_output=True, text=True).stdout


def test_the_plan(checkout: Path, tmp_path: Path):
    event, outputs = tmp_path / "event.json", tmp_path / "outputs"
    event.write_text(json.dumps({"inputs": {"runner": "gpu", "force": "true", "reason": ""}}))
    for line in run_lines("retrain", "plan"):
        execute(
            checkout,
            line,
            GITHUB_EVENT_NAME="workflow_dispatch",
            GITHUB_EVENT_PATH=str(event),
            GITHUB_OUTPUT=str(outputs),
            GITHUB_STEP_SUMMARY=str(tmp_path / "summary"),
        )
    given = dict(line.split("=", 1) for line in outputs.read_text().splitlines())
    assert given["must_run"] == "true"
    assert json.loads(given["labels"]) == ["self-hosted", "gpu"]
    assert {"sample", "evaluate"} <= set(json.loads(given["stages"]))  # the seed that changed
    assert "### Plan" in (tmp_path / "summary").read_text()


def test_the_gates(checkout: Path):
    for workflow in ("ci", "retrain"):
        for line in run_lines(workflow, "gate"):
            execute(checkout, line, NEEDS='{"check": {"result": "success"}}')
