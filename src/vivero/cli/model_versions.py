"""`vivero models` and `vivero models history`: what is registered, and how the champion changed."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from vivero.cli.console import plain_console
from vivero.cli.waiting import shown_waiting
from vivero.config.paths import PARAMS, project_dir

ASKING = "asking MLflow"
Name = Annotated[
    str | None, typer.Option("--name", help="Registered model; default: register.model_name.")
]

app = typer.Typer(
    help="List the versions of the registered model; `history` says how the champion changed.\n\n"
    "Example: vivero models history",
    invoke_without_command=True,
    rich_markup_mode=None,
)


@app.callback()
def models(
    context: typer.Context,
    name: Name = None,
    history: Annotated[bool, typer.Option("--history", hidden=True)] = False,
) -> None:
    """List the versions of the registered model."""
    if context.invoked_subcommand is None:
        root = project_dir()
        (_print_history if history else _print_versions)(root, name or model_name(root))


@app.command(name="history")
def show_history(name: Name = None) -> None:
    """Every promotion and rollback, oldest first: when, from, to, by whom, why, on which verdict.

    Example: vivero models history
    """
    root = project_dir()
    _print_history(root, name or model_name(root))


def model_name(root: Path) -> str:
    """The registered model that params.yaml names."""
    from vivero.config.load import load_config

    return load_config(root / PARAMS).registration.model_name


def _print_versions(root: Path, name: str) -> None:
    from rich.table import Table
    from rich.text import Text

    from vivero.integrity.records import shown  # imports pydantic

    with shown_waiting(ASKING):
        from vivero.registry.versions import RECORDED_TAG, list_versions

        versions = list_versions(root, name)
    if not versions:
        typer.echo(f"no version of '{name}' is registered yet; `vivero run` makes the first")
        return
    columns = ("version", "alias", "made (UTC)", "verdict", "commit", "signed", "weights sha256")
    table = Table(*columns, "distance on fresh images")
    for version in versions:
        made = datetime.fromtimestamp(version.created_at_ms / 1000, UTC)
        commit = version.tags.get("vivero.lineage.code_commit", "unknown")[:10]
        dirty = " dirty" if version.tags.get("vivero.lineage.is_dirty") == "True" else ""
        table.add_row(
            version.version,
            Text(shown(", ".join(version.aliases))),
            made.strftime("%Y-%m-%d %H:%M"),
            Text(shown(version.tags.get("vivero.verdict", ""))),
            Text(shown(commit + dirty)),
            "yes" if version.signature_sha256 else "no",
            version.weights_sha256[:12],
            version.tags.get(RECORDED_TAG, "not measured"),
        )
    plain_console(110).print(table)


def _print_history(root: Path, name: str) -> None:
    from rich.table import Table
    from rich.text import Text

    with shown_waiting(ASKING):
        from vivero.registry.moves import history

        events = history(root, name)
    if not events:
        typer.echo(f"'{name}' never had a champion; `vivero run` makes the first")
        return
    table = Table("when (UTC)", "what", "from", "to", "by", "why", "verdict")
    for event in events:
        table.add_row(
            Text(event.at[:16].replace("T", " ")),
            event.action,
            event.former or "nobody",
            event.champion,
            Text(event.by),
            Text(event.why),
            "by hand" if event.verdict_sha256 is None else event.verdict_sha256[:12],
        )
    plain_console(110).print(table)
