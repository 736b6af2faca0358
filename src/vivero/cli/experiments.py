"""`vivero compare` and `vivero seeds`: is it better, and is it more than luck."""

from pathlib import Path
from typing import Annotated, Literal

import typer


def add_to(app: typer.Typer) -> None:
    """Add the commands to the application."""
    for command in (compare, seeds):
        app.command()(command)


def compare(
    model_a: Annotated[
        str, typer.Argument(metavar="MODEL_A", help="models:/vivero@champion, or a bundle folder.")
    ],
    model_b: Annotated[str, typer.Argument(metavar="MODEL_B", help="The same, of the other.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for comparison.json and .png.")],
) -> None:
    """Compare two models' denoising loss at each noise level, on the same images and noise.

    Differences are paired by image, so that a small one is seen; the held-out images, the number
    of levels and the seed are those of the stage evaluate.

    Example: vivero compare models:/vivero@champion artifacts/train/bundle --out comparison
    """
    from vivero.cli.comparing import compare_models

    compare_models((model_a, model_b), out)


def seeds(
    seeds: Annotated[list[int], typer.Argument(metavar="SEED...", min=0, help="At least two.")],
    name: Annotated[
        str, typer.Option(help="Of the results in work/seeds; the experiments are NAME-SEED.")
    ] = "seeds",
    stage: Annotated[
        Literal["train", "evaluate"], typer.Option(help="The last stage that is run.")
    ] = "evaluate",
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the experiments for `dvc exp show` and apply.")
    ] = False,
) -> None:
    """Train the current settings once for each seed, and say how far every figure moves.

    Each seed is a DVC experiment in a copy of the repository, one after the other: what is in this
    folder stays as it is. Started again, finished seeds are taken from DVC's cache.

    Example: vivero seeds 0 1 2 --name default
    """
    from vivero.cli.seeds import run_seeds

    raise typer.Exit(run_seeds(seeds, name, stage, keep=keep))
