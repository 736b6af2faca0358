"""`vivero compare` and `vivero seeds`: is it better, and is it more than luck."""

from pathlib import Path
from typing import Annotated

import typer


def add_to(app: typer.Typer) -> None:
    """Add the commands to the application."""
    for command in (compare,):
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
