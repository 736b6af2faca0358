"""Flow `experiment`: bring every artifact up to date, then drift, gate, register, promote.

The flow knows when and where, never what: the stages and their order come from DVC's own graph,
and each runs as `dvc repro STAGE` in its own process group, which dies with the flow. What acts
on the world outside the workspace (registry, alias) follows, as commands that may be repeated.

    python pipelines/experiment.py [--force]   # a temporary Prefect server, or PREFECT_API_URL's
"""

import os
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn

import networkx as nx
from dvc.repo import Repo
from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE

from vivero.config.paths import project_dir, work_dir
from vivero.errors import StageError, TrackingError, ViveroError
from vivero.files import write_json
from vivero.processes import INTERRUPTED_EXIT_CODE, UNREACHABLE_EXIT_CODE, run_in_group

OUTSIDE_DVC = ("check_drift", "judge", "register", "promote")
RETRY_DELAYS_S = [5.0, 30.0, 120.0]


def stage_names(root: Path) -> list[str]:
    """The stages of dvc.yaml, each after all that it depends on, else in the order of the file."""
    with Repo(str(root)) as repo:
        stages = [stage for stage in repo.index.stages if stage.cmd]
        order = {stage: position for position, stage in enumerate(stages)}
        upstream_first = repo.index.graph.subgraph(stages).reverse()
        ordered = nx.lexicographical_topological_sort(upstream_first, key=order.__getitem__)
        return [stage.addressing for stage in ordered]


def has_remote(root: Path) -> bool:
    """Whether DVC has a default remote to pull from."""
    with Repo(str(root)) as repo:
        return bool(repo.config["core"].get("remote"))


def environment() -> dict[str, str]:
    """Ours, with the programs of this very environment first, so that `python` is this one."""
    bin_dir = str(Path(sys.executable).parent)
    return {**os.environ, "PATH": os.pathsep.join([bin_dir, os.environ.get("PATH", "")])}


@task(task_run_name="{stage}", cache_policy=NO_CACHE, persist_result=False)
def reproduce(stage: str, root: Path, options: list[str]) -> float:
    """Bring one stage up to date; DVC decides whether there is work to do. Returns seconds.

    Not retried: a stage is deterministic, so it would fail again in the same way.
    """
    return run_timed(stage, ["dvc", "repro", *options, stage], root)


@task(
    task_run_name="{stage}",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=len(RETRY_DELAYS_S),
    retry_delay_seconds=RETRY_DELAYS_S,
    retry_condition_fn=lambda _task, _run, state: isinstance(
        state.result(raise_on_failure=False), TrackingError
    ),
)
def act(stage: str, root: Path) -> float:
    """Run a command that acts outside the workspace; idempotent, so retried when a server is away.

    Returns seconds.
    """
    return run_timed(stage, [f"vivero.stages.{stage}"], root)


def run_timed(stage: str, module: list[str], root: Path) -> float:
    """Run `python -m module` in its own process group and return how many seconds it took."""
    started_at = time.monotonic()
    get_run_logger().info("%s: started", stage)
    exit_code = run_in_group([sys.executable, "-m", *module], cwd=root, env=environment())
    if exit_code == UNREACHABLE_EXIT_CODE:
        raise TrackingError(f"stage '{stage}' could not reach a server; its message stands above")
    if exit_code:
        raise StageError(stage, exit_code)
    return time.monotonic() - started_at


@flow(name="experiment")
def experiment(root: Path | None = None, force: bool = False) -> dict[str, float]:
    """Reproduce all stages in order, then check for drift, judge, register and promote.

    Args:
        root: Top of the repository; None finds it from the current folder.
        force: Run every stage again, also those that are up to date.

    Returns:
        Seconds by stage, also written to work/experiment.json.
    """
    root = root or project_dir()
    options = ["--pull", "--allow-missing"] if has_remote(root) else []
    if force:
        options += ["--force", "--single-item"]
    seconds = {}
    for stage in stage_names(root):
        seconds[stage] = reproduce(stage, root, options)
    for stage in OUTSIDE_DVC:
        seconds[stage] = act(stage, root)
    write_json(work_dir(root) / "experiment.json", seconds)
    return seconds


def stop(_signal_number: int, _frame: object) -> NoReturn:
    """Turn SIGTERM into Ctrl-C, so that the stage that runs is told to stop and can save."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, stop)
    try:
        experiment(force="--force" in sys.argv[1:])
    except ViveroError as error:
        sys.stderr.write(f"\n{error}\n")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.stderr.write("\nexperiment: stopped; `vivero run` goes on from here\n")
        sys.exit(INTERRUPTED_EXIT_CODE)
