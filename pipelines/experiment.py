"""Flow `experiment`: make every artifact up to date, then drift, gate, register, promote.

The flow knows when and where, never what: the stages and their order come from DVC's own graph,
and each runs as `dvc repro STAGE` in its own process group, which dies with the flow. What acts
on the world outside the workspace (registry, alias) follows, as commands that may be repeated.

    python -m pipelines.experiment [--force]   # a temporary Prefect server, or PREFECT_API_URL's
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import httpx
from dvc.repo import Repo
from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from pipelines.commands import run_timed
from pipelines.server import ensure_server, lost_server
from pipelines.showing import show_run, show_stages
from pipelines.turns import one_at_a_time, slot_where_there_is_one
from pipelines.workspace import Workspace, own_workspace, propose, run_name
from vivero.cli.planning import stage_order
from vivero.cli.running import child_environment
from vivero.config.paths import project_dir, work_dir
from vivero.config.variables import own_variables
from vivero.errors import RemoteError, TrackingError
from vivero.files import write_json
from vivero.processes import one_sentence_errors, start_program
from vivero.storage.stores import mend_run_cache

ACTS_ALONE = "check_drift"
ACTS_IN_TURN = ("judge", "register", "promote")  # of all runs, one at a time
OUTSIDE_DVC = (ACTS_ALONE, *ACTS_IN_TURN)
RETRY_DELAYS_S = [5.0, 30.0, 120.0]


def has_remote(root: Path) -> bool:
    """Whether DVC has a default remote to pull from."""
    with Repo(str(root)) as repo:
        return bool(repo.config["core"].get("remote"))


def _nobody_answered(_task: object, _run: object, state: Any) -> bool:
    return isinstance(state.result(raise_on_failure=False), TrackingError | RemoteError)


# A stage is deterministic: it would fail again in the same way. A server comes back.
retried = task(
    task_run_name="{stage}",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=len(RETRY_DELAYS_S),
    retry_delay_seconds=RETRY_DELAYS_S,
    retry_condition_fn=_nobody_answered,
)


@retried
def reproduce(stage: str, root: Path, options: list[str]) -> float:
    """Bring one stage up to date; DVC decides whether there is work to do. Returns seconds."""
    return run_timed(stage, ["dvc", "repro", *options, stage], root)


@retried
def act(stage: str, root: Path) -> float:
    """Run a command that acts outside the workspace; it may be repeated. Returns seconds."""
    return run_timed(stage, [f"vivero.stages.{stage}"], root)


@task(task_run_name="bring_data", cache_policy=NO_CACHE, persist_result=False)
def bring_data(root: Path) -> float:
    """Bring data/ in, from the cache, the remote, or where it came from. Returns seconds."""
    return run_timed("bring_data", ["vivero.cli.app", "data", "fetch"], root)


def _transfer(name: str) -> Callable[..., Any]:
    return task(
        task_run_name=name + " {stage}",
        cache_policy=NO_CACHE,
        persist_result=False,
        retries=len(RETRY_DELAYS_S),
        retry_delay_seconds=RETRY_DELAYS_S,
    )


@_transfer("push")
def push(stage: str, root: Path, targets: list[str]) -> float:
    """Send what a stage made to the DVC remote; retried, because networks do fail."""
    return run_timed(f"push {stage}", ["dvc", "push", "--quiet", *targets], root)


@_transfer("pull")
def pull(stage: str, root: Path) -> float:
    """Bring what unchanged stages made here, where the commands that follow read it."""
    return run_timed(f"pull {stage}", ["dvc", "pull", "--quiet"], root)


@task(task_run_name="propose dvc.lock", cache_policy=NO_CACHE, persist_result=False)
def propose_lock(workspace: Workspace) -> str | None:
    """Commit dvc.lock, and nothing else, on a branch of the run; None when it did not change."""
    return propose(workspace, "dvc.lock", "dvc.lock: what a run made of its parent")


@flow(name="experiment", persist_result=False, result_serializer="json")
def experiment(ref: str = "main", force: bool = False) -> dict[str, float]:
    """Reproduce all stages in order, then check for drift, judge, register and promote.

    In a clone of its own when VIVERO_REPOSITORY is set (pipelines/workspace.py), else here.

    Args:
        ref: Branch or tag of the repository that is run; other settings are another branch.
        force: Run every stage again, also those that are up to date.

    Returns:
        Seconds by stage, also written to work/experiment.json.
    """
    with own_workspace(run_name(), ref) as workspace:
        with slot_where_there_is_one("trainer"):
            seconds = _make(workspace, force)
        show_stages(workspace.root, seconds)
        branch = None if workspace.name is None else propose_lock(workspace)
        seconds |= _act(workspace.root)
        write_json(work_dir(workspace.root) / "experiment.json", seconds)
        show_run(workspace.root, seconds, branch)
    return seconds


def _make(workspace: Workspace, force: bool) -> dict[str, float]:
    """All of DVC's stages; in a clone with what they made pushed, one after the other."""
    root, is_clone = workspace.root, workspace.name is not None
    shares = has_remote(root)
    mend_run_cache(root)
    options = ["--pull", "--allow-missing"] if shares else []
    if force:
        options += ["--force", "--single-item"]
    seconds = {"bring_data": bring_data(root)} if is_clone else {}
    targets = ["data.dvc"]
    for stage in stage_order(root):
        seconds[stage] = reproduce(stage, root, options)
        if is_clone and shares:
            push(stage, root, [*targets, stage])
            targets = []
    if shares:
        pull("artifacts", root)
    if is_clone and shares:
        push("run cache", root, ["--run-cache"])
    return seconds


def _act(root: Path) -> dict[str, float]:
    seconds = {ACTS_ALONE: act(ACTS_ALONE, root)}
    with one_at_a_time("vivero-promotion"):
        for stage in ACTS_IN_TURN:
            seconds[stage] = act(stage, root)
    return seconds


def stop(_signal_number: int, _frame: object) -> NoReturn:
    """Turn SIGTERM into Ctrl-C, so that the stage that runs is told to stop and can save."""
    raise KeyboardInterrupt


def main() -> None:
    """Run the flow here, with the variables that `vivero run` gives it."""
    own = child_environment(project_dir())
    if (
        os.environ.get("PREFECT_HOME") != own["PREFECT_HOME"]
        or own_variables(os.environ) != os.environ
    ):
        # Started by hand: Prefect has read its settings when it was imported, so start again.
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], own)  # noqa: S606
    start_program()
    signal.signal(signal.SIGTERM, stop)
    with one_sentence_errors("experiment", "stopped; `vivero run` resumes from here"):
        try:
            ensure_server()
            experiment(force="--force" in sys.argv[1:])
        except httpx.HTTPError as error:
            raise lost_server(error) from error


if __name__ == "__main__":
    main()
