"""Flow `refresh-data`: bring new images in, validate, propose data.dvc, start an experiment."""

from pathlib import Path

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.deployments import run_deployment
from prefect.runtime import deployment

from pipelines.commands import run_timed
from pipelines.experiment import bring_data, has_remote, push, retried
from pipelines.workspace import Workspace, incoming_address, own_workspace, propose, run_name
from vivero.config.paths import artifacts_dir
from vivero.files import read_json, write_text

BRANCH_PREFIX = "data/"


@retried
def import_new(stage: str, source: str, root: Path, with_generated: bool) -> float:
    """Add the new images of a folder or an s3:// prefix to data/. Returns seconds."""
    options = ["--with-generated"] if with_generated else []
    arguments = ["data", "import", source, "--out", "data", "--append", *options]
    return run_timed(stage, ["vivero.cli.app", *arguments], root)


@task(task_run_name="validate_data", cache_policy=NO_CACHE, persist_result=False)
def validate(root: Path) -> float:
    """Hold data/ to its contract before anybody sees the new data.dvc."""
    return run_timed("validate_data", ["vivero.stages.validate_data"], root)


@task(task_run_name="dvc add data", cache_policy=NO_CACHE, persist_result=False)
def take_in(root: Path) -> float:
    """Move data.dvc to what data/ is now."""
    return run_timed("dvc add", ["dvc", "add", "--quiet", "data"], root)


@task(task_run_name="propose data.dvc", cache_policy=NO_CACHE, persist_result=False)
def propose_data(workspace: Workspace) -> str | None:
    """Commit data.dvc, and nothing else, on a branch; None when it did not change."""
    return propose(workspace, "data.dvc", "data.dvc: what came in", BRANCH_PREFIX)


@flow(name="refresh-data", persist_result=False, result_serializer="json")
def refresh_data(
    source: str | None = None,
    ref: str = "main",
    with_generated: bool = False,
    idempotency_key: str | None = None,
) -> str | None:
    """Bring new images in beside the present ones; start an experiment when the data changed.

    Args:
        source: Folder or s3:// prefix; None = what the monitor watches.
        ref: Branch or tag whose data grows.
        with_generated: Whether images that carry Vivero's record of having made them are taken.
        idempotency_key: Stands for one alarm: however often it comes, one experiment is started.

    Returns:
        The branch with the new data.dvc; None when nothing new came in.
    """
    with own_workspace(run_name(), ref) as workspace:
        root = workspace.root
        bring_data(root)
        import_new("import", incoming_address(root, source), root, with_generated)
        _take_in_what_is_valid(root)
        made = read_json(artifacts_dir(root, "validate_data") / "summary.json")["made"]
        branch = None if workspace.name is None else _share(workspace)
    said = f"{made}\n\n" + (f"Proposed on `{branch}`." if branch else "The data did not change.")
    create_markdown_artifact(said, key="data", description="What came in")
    if branch is not None and deployment.id:
        start_experiment(branch, idempotency_key or branch)
    return branch


def _take_in_what_is_valid(root: Path) -> None:
    """Move data.dvc, then validate: a stage reads only what data.dvc says. A failure undoes it."""
    path = root / "data.dvc"
    before = path.read_text(encoding="utf-8")
    take_in(root)
    try:
        validate(root)
    except BaseException:
        write_text(path, before)
        raise


def _share(workspace: Workspace) -> str | None:
    if has_remote(workspace.root):
        push("data", workspace.root, ["data.dvc"])
    return propose_data(workspace)


@task(task_run_name="start experiment", cache_policy=NO_CACHE, persist_result=False, retries=3)
def start_experiment(branch: str, idempotency_key: str) -> None:
    """Ask for one run of the experiment on the new data, and do not wait for it."""
    run_deployment(
        f"experiment/{deployment.name}",
        parameters={"ref": branch},
        timeout=0,
        as_subflow=False,
        idempotency_key=idempotency_key,
    )
