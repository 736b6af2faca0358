"""Flow `promotion`: make a version the champion, or take that back, by the command line's words."""

from pathlib import Path
from typing import Literal

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from pipelines.commands import run_timed
from pipelines.turns import one_at_a_time
from pipelines.workspace import own_workspace, run_name
from vivero.errors import PromotionError


@task(task_run_name="{action}", cache_policy=NO_CACHE, persist_result=False)
def move_champion(action: str, arguments: list[str], root: Path) -> float:
    """Run `vivero promote` or `vivero rollback`; a refusal fails the run and moves nothing."""
    return run_timed(action, ["vivero.cli.app", action, *arguments], root)


def command_arguments(
    action: str, version: str | None, reason: str, expect_champion: str
) -> list[str]:
    """What follows `vivero promote` or `vivero rollback`.

    Raises:
        PromotionError: When promote has no version, or rollback has one, or does not say which
            champion is taken back: started again, it would undo itself.
    """
    if (version is None) == (action == "promote"):
        raise PromotionError(
            f"promote needs a version and rollback takes none; got action={action}, "
            f"version={version}. The champion is unchanged"
        )
    if action == "rollback" and not expect_champion.isdecimal():
        raise PromotionError(
            f"rollback needs expect_champion, the number of the version that is taken back; got "
            f"'{expect_champion}'. Without it a run that is started again would undo the first; "
            f"`vivero models` says who is champion, who is unchanged now"
        )
    chosen = [] if version is None else [version]
    return [*chosen, "--reason", reason, "--expect-champion", expect_champion]


@flow(name="promotion", persist_result=False, result_serializer="json")
def promotion(
    action: Literal["promote", "rollback"] = "promote",
    version: str | None = None,
    reason: str = "from Prefect",
    expect_champion: str = "any",
    ref: str = "main",
) -> None:
    """Move the alias `champion`, while no other run does.

    Args:
        action: promote gives the alias to `version`; rollback gives it back to the previous one.
        version: Number of the version to promote.
        reason: Kept in the record.
        expect_champion: Refuse unless this version is champion now; "any" = whichever, which a
            rollback does not take: it may be started again, and takes this version back once.
        ref: Branch or tag whose settings hold.
    """
    arguments = command_arguments(action, version, reason, expect_champion)
    with own_workspace(run_name(), ref) as workspace, one_at_a_time("vivero-promotion"):
        move_champion(action, arguments, workspace.root)
