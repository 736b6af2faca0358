"""`vivero find-learning-rate`: what to write in params.yaml before a training."""

from typing import Annotated

import typer


def add_to(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command()(find_learning_rate)


def find_learning_rate(
    num_steps: Annotated[int, typer.Option(min=20, help="Steps, each at a higher rate.")] = 150,
) -> None:
    """Train for a moment while the learning rate rises from 1e-6 to 1, and suggest one.

    The suggestion is a tenth of the rate at which the smoothed loss was least. Writes
    work/learning_rate/range_test.json and .png; touches no checkpoint and no artifact.

    Example: vivero find-learning-rate
    """
    from vivero.cli.learning_rates import suggest_learning_rate

    suggest_learning_rate(num_steps)
