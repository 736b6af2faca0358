"""Variables of other programs move neither a run, nor its store, nor the repository it records."""

import os
import subprocess
import sys
from pathlib import Path

from tests.mlflow_stores import empty_store
from tests.unit.config.test_variables import HOSTILE
from vivero.tracking.store import open_client

RECORDS = """
from pathlib import Path
from vivero.processes import run_program

def body():
    from vivero.tracking.git import git_text
    from vivero.tracking.store import experiment_id, open_client
    root = Path.cwd()
    client = open_client(root)
    run = client.create_run(experiment_id(client, root, "ours"))
    (root / "note.txt").write_text("a note")
    client.log_artifact(run.info.run_id, str(root / "note.txt"))
    client.set_terminated(run.info.run_id)
    print(git_text(root, "rev-parse", "HEAD"))

run_program("records", body)
"""


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=A", "-c", "user.email=a@localhost", "-c", "commit.gpgsign=false"]
    command = ["git", *who, *arguments]
    return subprocess.run(
        command, cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


def repository(folder: Path) -> str:
    folder.mkdir()
    git(folder, "init", "--quiet")
    git(folder, "commit", "--quiet", "--allow-empty", "--message", folder.name)
    return git(folder, "rev-parse", "HEAD")


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if ".git" not in path.parts}


def test_a_run_lands_where_it_belongs(tmp_path: Path):
    root, elsewhere = tmp_path / "ours", tmp_path / "elsewhere"
    commit, theirs = repository(root), repository(elsewhere)
    (root / "mlflow.db").write_bytes(empty_store())
    own = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    hostile = {
        name: value.replace("/elsewhere", str(elsewhere))
        for name, value in HOSTILE.items()
        if name not in ("PYTHONHOME", "PYTHONWARNINGS", "PYTHONINSPECT", "PYTHONOPTIMIZE")
    }  # of those the interpreter itself has made use before a program begins
    done = subprocess.run(
        [sys.executable, "-c", RECORDS],
        cwd=root,
        env={**own, **hostile},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == commit != theirs
    assert files_below(elsewhere) == set()
    client = open_client(root)
    names = {experiment.name for experiment in client.search_experiments()}
    assert names == {"Default", "ours"}
    experiment = client.get_experiment_by_name("ours")
    [run] = client.search_runs([experiment.experiment_id])
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["note.txt"]
    assert any(name.startswith("mlartifacts/") for name in files_below(root))
