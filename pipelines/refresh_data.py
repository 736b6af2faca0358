"""Flow `refresh-data`: bring new images in, validate, propose data.dvc, start an experiment.

It does not end quietly when images came in and none was taken: an alarm has brought it here, and
nobody would train on what the alarm was about.
"""

import html
from dataclasses import dataclass
from pathlib import Path

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.deployments import run_deployment
from prefect.runtime import deployment

from pipelines.commands import run_timed, unnamed
from pipelines.experiment import bring_data, has_remote, push, retried
from pipelines.workspace import Workspace, incoming_address, own_workspace, propose, run_name
from vivero.config.paths import artifacts_dir, data_dir
from vivero.data.appending import (
    ALL_REFUSED_EXIT_CODE,
    NO_IMAGES,
    PRESENT,
    left_out_path,
    read_left_out,
)
from vivero.data.quarantine import QuarantineRow, reason_counts, worst_rows
from vivero.errors import DataError, StageError
from vivero.files import read_json, write_text
from vivero.plain_text import one_line

BRANCH_PREFIX = "data/"
NUM_EXAMPLES = 3
MAX_DETAIL = 500  # characters


@dataclass(frozen=True)
class Refusals:
    """Files that were refused by an import that added nothing.

    Attributes:
        rows: One for each of them.
        num_present: Images of the same source that are in the data set already.
    """

    rows: list[QuarantineRow]
    num_present: int

    def text(self, source: str, path: Path) -> str:
        """How many, why, and what to do, for a person; path is where all the rows lie."""
        counts = ", ".join(
            f"{reason} {count}" for reason, count in reason_counts(self.rows).items()
        )
        present = f", {self.num_present} images were there already" if self.num_present else ""
        shown = worst_rows(self.rows, NUM_EXAMPLES)
        examples = "\n".join(
            f"- {one_line(row.path)!r}: {row.reason}: {one_line(row.detail, MAX_DETAIL)}"
            for row in shown
        )
        return (
            f"No image of {unnamed(source)} was added: {len(self.rows)} files were refused "
            f"({counts}){present}. {path} on the worker lists each with its reason. Correct the "
            f"files, or give the folder of each image the name of its class, then run "
            f"refresh-data again. For example:\n\n{examples}"
        )


def refusals_in(left_out: list[QuarantineRow]) -> Refusals | None:
    """What was refused of the files that an import left out; None when no image was."""
    rows = [row for row in left_out if row.reason not in (PRESENT, *NO_IMAGES)]
    num_present = sum(row.reason == PRESENT for row in left_out)
    return Refusals(rows, num_present) if rows else None


@retried
def import_new(stage: str, source: str, root: Path, with_generated: bool) -> float:
    """Add the new images of a folder or an s3:// prefix to data/. Returns seconds.

    That every image was refused is no failure of this task: it would fail again in the same way.
    """
    options = ["--with-generated"] if with_generated else []
    arguments = ["data", "import", source, "--out", "data", "--append", *options]
    try:
        return run_timed(stage, ["vivero.cli.app", *arguments], root)
    except StageError as error:
        if error.exit_code != ALL_REFUSED_EXIT_CODE:
            raise
        return 0.0  # what was refused is reported below


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

    Raises:
        DataError: When images came in, and every one of them was refused.
    """
    with own_workspace(run_name(), ref) as workspace:
        root = workspace.root
        bring_data(root)
        address = incoming_address(root, source)
        import_new("import", address, root, with_generated)
        warning = _heeded_refusals(root, address)
        is_changed = _take_in_what_is_valid(root)
        made = read_json(artifacts_dir(root, "validate_data") / "summary.json")["made"]
        branch = None if workspace.name is None else _share(workspace)
    ending = "data.dvc names the new data." if is_changed else "The data did not change."
    if branch is not None:
        ending = f"Proposed on `{branch}`."
    _show("\n\n".join([*warning, made, ending]))
    if branch is not None and deployment.id:
        start_experiment(branch, idempotency_key or branch)
    return branch


def _heeded_refusals(root: Path, source: str) -> list[str]:
    """What to say where nothing was added and files were refused; [] for nothing.

    Raises:
        DataError: When the source holds nothing else. Beside images that were taken in before,
            refused files are a warning: they may have lain there for long.
    """
    refusals = refusals_in(read_left_out(data_dir(root)))
    if refusals is None:
        return []
    text = refusals.text(source, left_out_path(data_dir(root)))
    if not refusals.num_present:
        _show(text)
        raise DataError(text)
    get_run_logger().warning("%s", text)
    return [f"**Warning.** {text}"]


def _show(text: str) -> None:
    plain = html.escape(text, quote=False)  # a file's name may hold tags
    create_markdown_artifact(plain, key="data", description="What came in")


def _take_in_what_is_valid(root: Path) -> bool:
    """Move data.dvc, then validate: a stage reads only what data.dvc says. A failure undoes it.

    Returns:
        Whether data.dvc is another one now.
    """
    path = root / "data.dvc"
    before = path.read_text(encoding="utf-8")
    take_in(root)
    try:
        validate(root)
    except BaseException:
        write_text(path, before)
        raise
    return path.read_text(encoding="utf-8") != before


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
