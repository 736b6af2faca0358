"""`vivero monitor`, `simulate-drift`: do new images look like before, and how sure is that?"""

from typing import Annotated

import typer


def add_to(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command(rich_help_panel="Stages")(monitor)
    app.command()(simulate_drift)


def monitor(
    source: Annotated[
        str | None,
        typer.Option(help="Folder or s3://bucket/prefix; else VIVERO_INCOMING, monitor.source."),
    ] = None,
    repeat_until_announced: Annotated[
        bool, typer.Option(help="Decide an alarm again, under its key, until it was announced.")
    ] = False,
    announced: Annotated[
        str | None, typer.Option(metavar="KEY", help="Only note that this alarm was passed on.")
    ] = None,
) -> None:
    """Stage monitor: Test new images for drift, and decide whether to train again.

    Writes artifacts/monitor/report.html and decision.json. What was seen and when it last decided
    to train is remembered with the registered model, so that it may run as often as you like.

    Example: vivero monitor --source s3://camera/incoming
    """
    from vivero.cli.running import run_monitor

    raise typer.Exit(run_monitor(source, announced, repeat_until_announced))


def simulate_drift(
    trials: Annotated[
        int, typer.Option(min=20, help="Batches without a change, for each size.")
    ] = 200,
    power_trials: Annotated[
        int, typer.Option(min=5, help="Batches with each change, for each size.")
    ] = 30,
) -> None:
    """How often would drift alarm, without a change and with one? On this data, by batch size.

    Writes work/simulate_drift/table.md, drift.png and drift.json. Stopped, it goes on where it
    was. Exit code 1 when there are more false alarms than the level explains.

    Example: vivero simulate-drift --trials 200
    """
    from vivero.cli.simulating_drift import simulate_drift as simulate

    raise typer.Exit(simulate(trials, power_trials))
