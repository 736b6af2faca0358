"""`vivero keys`: whose signatures count here, and the own public key for others."""

from pathlib import Path
from typing import Annotated

import typer

from vivero.cli.console import plain_console
from vivero.config.paths import project_dir, root_or_none

app = typer.Typer(
    help="Keys that sign model versions: list whose signatures count here, export your own.",
    invoke_without_command=True,
    rich_markup_mode=None,
)


@app.callback()
def keys(context: typer.Context) -> None:
    """List the public keys whose signatures count here.

    Example: vivero keys
    """
    from rich.table import Table

    from vivero.registry.keys import trusted_keys

    if context.invoked_subcommand is not None:
        return
    found = trusted_keys(root_or_none())
    if not found:
        typer.echo("no key yet; the first `vivero register` makes yours, and `vivero run` calls it")
        return
    table = Table("fingerprint", "from")
    for key in found.values():
        table.add_row(key.fingerprint[:16], key.origin)
    plain_console(110).print(table)


@app.command()
def export(
    name: Annotated[
        str | None, typer.Option("--name", help="Of the file; default: your user name.")
    ] = None,
) -> None:
    """Write your public key into trusted_keys/, so that others can load what you register.

    Commit the file: a reviewer decides whose models count. A key is made when there is none.

    Example: vivero keys export --name nightly-worker
    """
    from vivero.config.environment import user_name
    from vivero.registry.keys import export_key, public_key_of, signing_key

    root = project_dir()
    path: Path = export_key(root, public_key_of(signing_key(root)), name or user_name())
    typer.echo(f"{path.relative_to(root)} written; commit it, and have it reviewed")
