"""`vivero compare`, `compare-samplers`, `seeds`: is it better, and is it more than luck."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from vivero.cli.targets import writable_folder


def add_to(app: typer.Typer) -> None:
    """Add the commands to the application."""
    for command in (compare, compare_samplers, seeds):
        app.command()(command)


def compare(
    model_a: Annotated[
        str, typer.Argument(metavar="MODEL_A", help="models:/vivero@champion, or a bundle folder.")
    ],
    model_b: Annotated[str, typer.Argument(metavar="MODEL_B", help="The same, of the other.")],
    out: Annotated[
        Path,
        typer.Option(
            "--out", callback=writable_folder, help="Folder for comparison.json and .png."
        ),
    ],
) -> None:
    """Compare two models' denoising loss at each noise level, on the same images and noise.

    Differences are paired by image, so that a small one is seen; the held-out images, the number
    of levels and the seed are those of the stage evaluate.

    Example: vivero compare models:/vivero@champion artifacts/sample/bundle --out comparison
    """
    from vivero.cli.comparing import compare_models

    compare_models((model_a, model_b), out)


def compare_samplers(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="models:/vivero@champion, or a bundle folder.")
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            callback=writable_folder,
            help="Folder for samples.png, pareto.png and results.json.",
        ),
    ],
    images: Annotated[
        int, typer.Option("--images", min=2, help="For each cell; fewer are less sure.")
    ] = 1000,
    ddpm_images: Annotated[
        int, typer.Option("--ddpm-images", min=2, help="At most so many with 1000 steps of DDPM.")
    ] = 250,
    seed: Annotated[int, typer.Option(min=0, help="Image k depends on (seed, k) alone.")] = 0,
    guidance: Annotated[
        float | None, typer.Option(min=0, help="1 = none; default: the model's own.")
    ] = None,
    samplers: Annotated[
        str | None,
        typer.Option(
            help="Only these of ddpm, ddim, heun, dpm_solver_pp_2m, sde_dpm_solver_pp_2m, "
            "uni_pc, hierarchical."
        ),
    ] = None,
    steps: Annotated[
        str | None, typer.Option(help="Only these of 5, 8, 12, 20, 50 and DDPM's 250, 1000.")
    ] = None,
) -> None:
    """Show what each sampler makes of one model in few steps: images, distance, time.

    Every sampler x steps makes the same images from the same seeds; each finished cell is kept in
    OUT/cells, so that the same command resumes where it was stopped. Needs the real images'
    features of the stage compute_reference.

    Example: vivero compare-samplers models:/vivero@champion --out work/samplers --steps 8,20,250
    """
    from vivero.cli.comparing_samplers import Request, compare_samplers

    request = Request(
        num_images=images,
        num_ddpm_images=ddpm_images,
        seed=seed,
        guidance=guidance,
        samplers=None if samplers is None else _listed(samplers),
        steps=None if steps is None else _counts(steps),
    )
    compare_samplers(model, request, out)


def seeds(
    seeds: Annotated[
        list[int], typer.Argument(metavar="SEED...", min=0, help="Two or more in all.")
    ],
    name: Annotated[
        str, typer.Option(help="Of the results in work/seeds; the experiments are NAME-SEED.")
    ] = "seeds",
    stage: Annotated[
        Literal["train", "evaluate"], typer.Option(help="The last stage that is run.")
    ] = "evaluate",
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the experiments for `dvc exp show` and apply.")
    ] = False,
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            exists=True,
            file_okay=False,
            help="Take the kept experiments NAME-SEED of this clone instead of training.",
        ),
    ] = None,
) -> None:
    """Train the current settings once for each seed, and measure how much every metric varies.

    Each seed is a DVC experiment in a copy of the repository, one after the other: this folder
    stays as it is. Seeds of earlier commands of the same name count too. After the stage evaluate
    the variance between seeds is stored in seed_variance.json, which `vivero judge` needs.

    Example: vivero seeds 1 2 3 4 5 6 --name default
    """
    from vivero.cli.seeds import Wish, run_seeds

    raise typer.Exit(run_seeds(Wish(seeds, name, stage, keep, source)))


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _counts(text: str) -> list[int]:
    try:
        return [int(part) for part in _listed(text)]
    except ValueError:
        raise typer.BadParameter(f"'{text}' is no list of numbers such as 5,20") from None
