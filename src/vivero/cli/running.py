"""`vivero run`, single stages, and the page at the end: what was made and how to look at it."""

import contextlib
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from rich.table import Table

from vivero.cli.console import plain_console
from vivero.cli.data import ensure_data
from vivero.cli.dvc_setup import prepare_dvc
from vivero.cli.quiet import QUIET
from vivero.config.environment import local_artifacts_dir, tracking_uri
from vivero.config.load import load_config
from vivero.config.paths import PARAMS, artifacts_dir, project_dir, work_dir
from vivero.config.variables import own_variables, variables_for_command
from vivero.errors import ConfigError
from vivero.evaluation.directions import better_of
from vivero.files import read_json
from vivero.processes import TUNING, run_in_group
from vivero.training.supervision import PATIENCE_S

MIN_WIDTH = 106  # of the tables; a narrower terminal breaks the lines itself
FOR_A_RUN = {
    **QUIET,
    # The temporary Prefect server of a busy machine needs longer than the 20 s it is given.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "600",
    # A failed stage has said why on this very terminal; the flow's traceback would bury it.
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",  # else a failed run's error is kept as a pickle
}


def child_environment(root: Path) -> dict[str, str]:
    """The variables of what we start: no other program's, no telemetry, Prefect's files in work/.

    A server that PREFECT_API_URL names is used as it is. All else of Prefect, such as the database
    of a temporary server, is in work/prefect, whatever PREFECT_HOME says.
    """
    own = own_variables(os.environ)
    bin_dir = str(Path(sys.executable).parent)
    prefect_dir = work_dir(root) / "prefect"
    prefect_dir.mkdir(parents=True, exist_ok=True)  # its server makes no parents
    return {
        **FOR_A_RUN,
        **own,
        "PATH": os.pathsep.join([bin_dir, own.get("PATH", os.defpath)]),
        "PREFECT_HOME": str(prefect_dir),
    }


def run_experiment(force: bool) -> int:
    """The main job from `vivero run`; returns the exit code."""
    root = project_dir()
    load_config(root / PARAMS)  # a mistake in it is said before anything is started
    prepare_dvc(root)
    with _alone(root):
        seconds_data = ensure_data(root)
        options = ["--force"] if force else []
        command = [sys.executable, "-m", "pipelines.experiment", *options]
        env = child_environment(root)
        env.pop("VIVERO_REPOSITORY", None)  # of this clone, whatever services are around
        exit_code = run_in_group(command, cwd=root, env=env, patience_s=PATIENCE_S)
    if exit_code == 0:
        _print_result(root, {"data": seconds_data, **read_json(work_dir(root) / "experiment.json")})
    return exit_code


@contextlib.contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Hold the workspace; a second run would wait for DVC's locks and then fail on them.

    Raises:
        ConfigError: When another one holds it.
    """
    path = work_dir(root) / "run.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ConfigError(
            f"another `vivero run`, or a stage of it, works in {root}; nothing was started. Wait "
            f"for its end, or stop it with Ctrl-C: the next one resumes from there"
        ) from error
    try:
        yield
    finally:
        lock.release()


def run_one_stage(stage: str, outside_dvc: bool, force: bool) -> int:
    """One stage by name: through DVC with what it depends on, or as a command of its own."""
    root = project_dir()
    load_config(root / PARAMS)
    prepare_dvc(root)
    env = child_environment(root)
    with _alone(root):
        if outside_dvc:
            command = [sys.executable, "-m", f"vivero.stages.{stage}"]
        else:
            ensure_data(root)
            options = ["--force", "--single-item"] if force else []
            command = [sys.executable, "-m", "dvc", "repro", *options, stage]
        env = variables_for_command(env, command)
        return run_in_group(command, cwd=root, env=env, patience_s=PATIENCE_S)


def run_monitor(source: str | None, announced: str | None, is_repeated: bool) -> int:
    """The command monitor on the source that the environment or params.yaml names, or this one."""
    root = project_dir()
    load_config(root / PARAMS)
    env = {**child_environment(root), **({"VIVERO_INCOMING": source} if source else {})}
    options = ["--repeat-until-announced"] if is_repeated else []
    options += [] if announced is None else ["--announced", announced]
    command = [sys.executable, "-m", "vivero.stages.monitor", *options]
    exit_code = run_in_group(command, cwd=root, env=env, patience_s=PATIENCE_S)
    if exit_code == 0 and announced is None and not is_repeated:
        _say_how_to_train_again(read_json(artifacts_dir(root, "monitor") / "decision.json"))
    return exit_code


def _say_how_to_train_again(decision: dict[str, Any]) -> None:
    if decision["trigger"]:
        source = shlex.quote(decision["source"])
        sys.stderr.write(
            f"Look at artifacts/monitor/report.html; then, where no flow does it:\n"
            f"  vivero data import {source} --append && dvc add data\n"
            f"  git commit -m 'what came in' data.dvc && vivero run\n"
        )


def profile_training() -> int:
    """Where the time of training goes, once the prepared images are up to date."""
    exit_code = run_one_stage("prepare_data", outside_dvc=False, force=False)
    if exit_code:
        return exit_code
    root = project_dir()
    command = [sys.executable, "-m", "vivero.stages.train", "--profile"]
    with _alone(root):
        return run_in_group(command, cwd=root, env={**TUNING, **child_environment(root)})


def serve_mlflow(port: int) -> int:
    """MLflow's pages over the store of this clone, until Ctrl-C."""
    from vivero.tracking.store import open_client  # takes seconds

    root = project_dir()
    open_client(root)  # a copied or moved clone gets its own addresses
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)),
        *("--workers", "1", "--backend-store-uri", tracking_uri(root)),
        *("--default-artifact-root", local_artifacts_dir(root).as_uri()),
    ]
    env = {**child_environment(root), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    sys.stderr.write(f"vivero: MLflow at http://127.0.0.1:{port} (Ctrl-C ends it)\n")
    return run_in_group(command, cwd=root, env=env)


def _print_result(root: Path, seconds: dict[str, float]) -> None:
    console = plain_console(MIN_WIDTH)
    console.print()
    console.print(_stage_table(root, seconds))
    console.print(_metric_table(read_json(artifacts_dir(root, "evaluate") / "metrics.json")))
    console.print(_verdict(root), "", _where_to_look(root), sep="\n", highlight=False, markup=False)


def _stage_table(root: Path, seconds: dict[str, float]) -> Table:
    table = Table("stage", "seconds", "what it made", title="What was done")
    table.columns[1].justify = "right"
    for stage, stage_s in seconds.items():
        summary_path = artifacts_dir(root, stage) / "summary.json"
        made = read_json(summary_path)["made"] if summary_path.exists() else "data/"
        table.add_row(stage, f"{stage_s:.1f}", made)
    table.add_row("all", f"{sum(seconds.values()):.1f}", "", style="bold")
    return table


def _metric_table(report: dict[str, Any]) -> Table:
    table = Table("metric", "value", "95 % interval", "real against real", "n", "better")
    table.title = "How good it is"
    for column in table.columns[:3]:
        column.no_wrap = True  # a name cut short names nothing
    for name, metric in report["metrics"].items():
        floor = metric.get("floor")
        table.add_row(
            name,
            f"{metric['value']:.4g}",
            f"{metric['low']:.4g} to {metric['high']:.4g}",
            "" if floor is None else f"{floor:.4g}",
            str(metric["n"]),
            better_of(name),
        )
    return table


def _verdict(root: Path) -> str:
    verdict = read_json(artifacts_dir(root, "judge") / "verdict.json")
    promotion = read_json(artifacts_dir(root, "promote") / "promotion.json")
    if verdict["is_champion_itself"]:
        return f"nothing to decide: {promotion['message']}"
    return f"verdict: {verdict['verdict']}; {promotion['message']}"


def _where_to_look(root: Path) -> str:
    name = load_config(root / PARAMS).registration.model_name
    promotion = read_json(artifacts_dir(root, "promote") / "promotion.json")
    which = "@champion" if promotion["promoted"] else f"/{promotion['version']}"
    model = f"models:/{name}{which}"
    lines = {
        "sample grid": "artifacts/sample/grid.png",
        "report page": "artifacts/evaluate/report.html",
        "data report": "artifacts/validate_data/report.html",
        "drift report": "artifacts/check_drift/report.html",
        "the gates": "artifacts/judge/verdict.md",
        "runs and models": "make ui",
        "more images": f".venv/bin/vivero sample {model} --out samples --num-images 20",
        "where it came from": f".venv/bin/vivero lineage {model}",
    }
    if (root / ".git").exists():
        lines["keep it"] = "git commit dvc.lock   (it names what was made, and from what)"
    return "\n".join(f"  {what + ':':20}{how}" for what, how in lines.items())
