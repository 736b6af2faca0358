"""`vivero lineage`: where something comes from, and what was made of it."""

from pathlib import Path
from typing import Annotated

import typer

from vivero.cli.console import plain_console
from vivero.cli.waiting import shown_waiting
from vivero.config.paths import project_dir
from vivero.errors import ConfigError

MIN_WIDTH = 240


def add_to(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(lineage)


def lineage(
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET",
            help="An image, a bundle folder, models:/vivero@champion, a commit, or a data version "
            "(the md5 in data.dvc); 7 characters of a hash are enough.",
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Trace an image, a model, a commit or a data version to all the others.

    Which commit, data, settings and seed made it, which model versions and runs belong to it,
    and which images were made. What is not known is said to be unknown.

    Examples: vivero lineage samples/00003-3.png  |  vivero lineage HEAD  |  vivero lineage c63b0f3
    """
    import json

    with shown_waiting("asking git, MLflow and the record of images"):
        from vivero.registry.lineage_trace import trace

        found = trace(target, _root_or_none())
    if as_json:
        typer.echo(json.dumps(found.as_json(), indent=2))
        return

    from vivero.cli.lineage_tree import lineage_tree

    plain_console(MIN_WIDTH).print(lineage_tree(found))


def _root_or_none() -> Path | None:
    try:
        return project_dir()
    except ConfigError:
        return None
