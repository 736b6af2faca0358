"""`vivero simulate-gates`, and what `vivero promote --explain` shows."""

from typing import Annotated

import typer

from vivero.cli.console import plain_console
from vivero.config.paths import artifacts_dir, project_dir


def add_to(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("simulate-gates")(simulate_gates)


def simulate_gates(
    trials: Annotated[
        int, typer.Option(min=2, help="Comparisons with equal retrains, and with better ones.")
    ] = 1000,
    rows: Annotated[int, typer.Option(min=2, help="Independent rows of 20 equal retrains.")] = 500,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of all draws.")] = 0,
    seeds: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Also judge the real trainings of `vivero seeds --name NAME` by each other.",
        ),
    ] = None,
) -> None:
    """Show what the gate does in the long run, by the real rule on real reports.

    An equal retrain is another seed of the same recipe: its metrics vary as seed_variance.json
    says. Shown are how often equal retrains promote, and ones that are better by
    judge.detectable_relative_gain, and whether 20 equal retrains in a row move the champion's
    recorded distance. Needs the report of the stage evaluate, or --seeds. Writes
    work/simulate_gates/gates.json and gates.png; ends with 1 when a target is missed.

    Example: vivero simulate-gates --seeds default
    """
    from vivero.cli.simulating_gates import simulate_gates as simulate

    raise typer.Exit(simulate(trials, rows, seed, seeds))


def explain() -> int:
    """Judge, and print every gate; nothing is promoted.

    Returns:
        Exit code of the judgement: a refusal is a result, not a failure.
    """
    from vivero.cli.running import run_one_stage
    from vivero.files import read_json
    from vivero.registry.verdict_page import verdict_table

    exit_code = run_one_stage("judge", outside_dvc=True, force=False)
    if exit_code:
        return exit_code
    folder = artifacts_dir(project_dir(), "judge")
    console = plain_console(120)
    console.print(verdict_table(read_json(folder / "verdict.json")))
    written = ", ".join(sorted(path.name for path in folder.glob("verdict.*")))
    typer.echo(f"now: {read_json(folder / 'summary.json')['made']}")
    typer.echo(f"artifacts/judge holds {written}; `vivero promote` acts on it")
    return 0
