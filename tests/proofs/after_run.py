"""What must hold after a run on real services, however it went. Each check names what it saw."""

import json
import math
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from infra.services import postgres
from infra.services.programs import s3_dir
from infra.services.settings import DATABASE_PASSWORD, read_env
from tests.proofs.stack import MODEL, Stack

WEIGHTS_TAG = "vivero.weights_sha256"
STAGES = ("validate_data", "prepare_data", "compute_reference", "train", "sample", "evaluate")
ACTS = ("check_drift", "judge", "register", "promote")


def weights_of(version: dict[str, Any]) -> str:
    """Which weights a model version holds."""
    tags = {tag["key"]: tag["value"] for tag in version.get("tags", [])}
    return str(tags[WEIGHTS_TAG])


def no_double_version(stack: Stack) -> int:
    """No weights are registered twice; returns how many versions there are."""
    counts = Counter(weights_of(version) for version in stack.versions())
    assert set(counts.values()) <= {1}, f"registered more than once: {counts}"
    return len(counts)


def whole_aliases(stack: Stack) -> dict[str, str]:
    """Each alias names a version that is ready and whose weights lie in the S3 bucket."""
    ready = {
        version["version"]: version for version in stack.versions() if version["status"] == "READY"
    }
    aliases = stack.aliases()
    assert "champion" in aliases
    for alias, number in aliases.items():
        assert number in ready, f"{alias} names version {number}, which is not ready"
        (model_id,) = set(re.findall(r"m-[0-9a-f]{32}", ready[number]["source"]))
        files = list(
            s3_dir(stack.settings).glob(f"vivero-mlflow/artifacts/**/{model_id}/**/*.safetensors")
        )
        assert files, f"the weights of {alias} ({model_id}) are not in the bucket"
    return aliases


def no_metric_lost(stack: Stack, run_id: str) -> int:
    """Every point of the training's journal is in MLflow, and there once; returns how many."""
    train_dir = stack.run_dir(run_id) / "artifacts" / "train"
    mlflow_run_id = json.loads((train_dir / "run.json").read_text())["mlflow_run_id"]
    journal = points_of_journal(train_dir / "journal.jsonl")
    names = {name for name, _, _ in journal}
    recorded: Counter[tuple[str, int, float]] = Counter()
    connection = postgres.connect(
        stack.settings, read_env(stack.settings)[DATABASE_PASSWORD], "mlflow"
    )
    with connection.cursor() as cursor:
        cursor.execute("SELECT key, step, value FROM metrics WHERE run_uuid = %s", (mlflow_run_id,))
        recorded.update((key, step, value) for key, step, value in cursor if key in names)
    connection.close()
    twice = [point for point, times in recorded.items() if times > 1]
    assert not twice, f"MLflow holds {len(twice)} points more than once: {sorted(twice)[:5]}"
    assert set(journal) == set(recorded), (
        f"journal {len(journal)} points, MLflow {len(recorded)}; only in one of them: "
        f"{sorted(set(journal) ^ set(recorded))[:5]}"
    )
    return len(journal)


def points_of_journal(path: Path) -> list[tuple[str, int, float]]:
    """Name, clock and value of each finite point that a training wrote down."""
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    return [
        (name, entry["images_seen"], value)
        for entry in entries
        if entry["kind"] == "metrics"
        for name, value in entry["values"].items()
        if math.isfinite(value)
    ]


def no_stale_lock(stack: Stack, run_id: str) -> None:
    """The clone of a run that has ended is free, for git, for DVC and for its successor."""
    clone = stack.run_dir(run_id)
    assert not (clone / ".git" / "index.lock").exists()
    try:
        with FileLock(clone.with_name(f".{clone.name}.lock"), timeout=0):
            pass
    except Timeout as error:
        raise AssertionError(f"{clone} is still locked") from error
    rwlock = clone / ".dvc" / "tmp" / "rwlock"
    held = json.loads(rwlock.read_text() or "{}") if rwlock.exists() else {}
    assert not any(held.values()), f"DVC still holds {held}"


def no_orphan(stack: Stack) -> None:
    """No stage works for a run that has ended."""
    assert stack.stages_at_work() == []


def seen_in_prefect(stack: Stack, run_id: str) -> dict[str, float]:
    """A task run for each stage, timed and with its words; the tables and the samples.

    Returns:
        Seconds by stage.
    """
    tasks = stack.task_runs(run_id)
    assert set(tasks) >= {*STAGES, *ACTS, "propose dvc.lock"}, sorted(tasks)
    assert {task["state_type"] for task in tasks.values()} == {"COMPLETED"}
    with_words = {entry["task_run_id"] for entry in stack.logs(run_id) if entry["task_run_id"]}
    silent = [stage for stage in (*STAGES, *ACTS) if tasks[stage]["id"] not in with_words]
    assert not silent, f"no logs of {silent}"
    artifacts = stack.artifacts(run_id)
    assert "| stage | seconds |" in artifacts["stages"]["data"]
    assert artifacts["metrics"]["type"] == "markdown"
    assert artifacts["samples"]["type"] == "image"
    return {stage: round(tasks[stage]["total_run_time"], 1) for stage in (*STAGES, *ACTS)}


def seen_in_storage(stack: Stack, run_id: str) -> int:
    """A fresh clone of the run's branch pulls, from the bucket alone, what dvc.lock names.

    Returns:
        How many files it pulled.
    """
    branch = branch_of(stack, run_id)
    assert branch is not None, "no branch holds the new dvc.lock"
    fresh = stack.folder / "fresh" / run_id[:8]
    fresh.parent.mkdir(exist_ok=True)
    origin = str(stack.folder / "origin.git")
    stack.run(["git", "clone", "--quiet", "--branch", branch, origin, str(fresh)], stack.folder)
    changed = stack.run(["git", "diff", "--name-only", "HEAD~1"], fresh).stdout.split()
    assert changed == ["dvc.lock"], changed
    dvc = [sys.executable, "-m", "dvc"]
    remote = stack.environment["VIVERO_DVC_REMOTE"]
    stack.run([*dvc, "remote", "add", "--quiet", "--local", "--default", "runs", remote], fresh)
    stack.run([*dvc, "remote", "modify", "--local", "runs", "verify", "true"], fresh)
    stack.run([*dvc, "pull", "--quiet"], fresh)
    made, pulled = stack.run_dir(run_id) / "artifacts", fresh / "artifacts"
    files = [path.relative_to(pulled) for path in pulled.rglob("*") if path.is_file()]
    assert files
    assert all((made / path).read_bytes() == (pulled / path).read_bytes() for path in files)
    return len(files)


def branch_of(stack: Stack, run_id: str) -> str | None:
    """The branch on which a run proposed its dvc.lock; None when it changed nothing."""
    name = f"runs/{stack.run_dir(run_id).name}"
    listed = stack.run(["git", "branch", "--list", name], stack.folder / "origin.git").stdout
    return name if listed.strip() else None


def seen_in_mlflow(stack: Stack, run_id: str) -> str:
    """The model version of a run: a row in PostgreSQL, its files in the bucket; returns it."""
    summary = json.loads((stack.run_dir(run_id) / "artifacts/train/summary.json").read_text())
    env = read_env(stack.settings)
    connection = postgres.connect(stack.settings, env[DATABASE_PASSWORD], "mlflow")
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT version FROM model_version_tags WHERE name = %s AND key = %s AND value = %s",
            (MODEL, WEIGHTS_TAG, summary["weights_sha256"]),
        )
        rows = cursor.fetchall()
    connection.close()
    assert len(rows) == 1, f"versions of {summary['weights_sha256']}: {rows}"
    whole_aliases(stack)
    return str(rows[0][0])


def checkpoints(stack: Stack) -> set[Path]:
    """All checkpoints of all runs."""
    folder = stack.runs_dir / ".shared" / "checkpoints"
    return {path for path in folder.glob("*/*") if path.is_dir() and path.name.isdecimal()}


def resumed_from(stack: Stack, run_id: str) -> list[int]:
    """At which clocks the training of a run was gone on with."""
    summary = json.loads((stack.run_dir(run_id) / "artifacts/train/summary.json").read_text())
    return [int(images) for images in summary["resumed_from"]]
