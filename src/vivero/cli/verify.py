"""`vivero verify`: is every file, here and in the stores, byte for byte what it was when made."""

from typing import Annotated

import typer


def add_to(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(verify)


def verify(
    remote: Annotated[
        bool, typer.Option("--remote", help="Also read every object of DVC's default remote.")
    ] = False,
    mend: Annotated[
        bool,
        typer.Option(
            "--mend", help="Move what is damaged to a quarantine, so that good copies can come."
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the findings as JSON and nothing else.")
    ] = False,
) -> None:
    """Hash every byte again: data/ and artifacts/, DVC's cache, and with --remote the remote.

    Names each damaged file, whose it is, and how to mend it; ends with 1 when there is one. Nothing
    is deleted: --mend moves files to work/quarantine/, and objects of a remote beside its objects.

    Example: vivero verify --remote --mend
    """
    from vivero.cli.verifying import verify_all

    raise typer.Exit(verify_all(with_remote=remote, mend=mend, as_json=as_json))
