"""`vivero sample`, `show-tree`, `promote`, `rollback`: using a model."""

from pathlib import Path
from typing import Annotated

import typer

from vivero.cli.model_versions import Name, model_name
from vivero.cli.targets import writable_folder
from vivero.cli.waiting import shown_waiting
from vivero.config.paths import PARAMS, project_dir, root_or_none


def add_to(app: typer.Typer) -> None:
    """Add the commands to the application."""
    for command in (sample, show_tree, promote, rollback, measure_champion):
        app.command()(command)


def sample(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="models:/vivero@champion, or a bundle folder.")
    ],
    out: Annotated[
        Path, typer.Option("--out", callback=writable_folder, help="Folder for the images.")
    ],
    num_images: Annotated[int, typer.Option(min=1, help="How many.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Image k depends on (seed, k) alone.")] = 0,
    label: Annotated[
        int | None, typer.Option(help="Class index; without it all classes in turn.")
    ] = None,
    sampler: Annotated[
        str | None,
        typer.Option(
            help="ddpm, ddim, heun, dpm_solver_pp_2m, sde_dpm_solver_pp_2m, uni_pc or hierarchical."
        ),
    ] = None,
    num_steps: Annotated[int | None, typer.Option(min=1, help="Noise levels visited.")] = None,
    guidance: Annotated[float | None, typer.Option(min=0, help="1 = none.")] = None,
    adaptive_threshold: Annotated[
        float | None,
        typer.Option(
            min=0, help="Of hierarchical: an image descends early when its details exceed this."
        ),
    ] = None,
) -> None:
    """Make images and write them as PNG, each with the record of what made it.

    Writes OUT/00000-<class index>.png and so on, and OUT/samples.json.

    Example: vivero sample models:/vivero@champion --out samples --num-images 20 --seed 7
    """
    from vivero.registry.image_runs import remember
    from vivero.registry.versions import resolve_model
    from vivero.stages.sample import SampleRequest, sample_to_folder

    request = SampleRequest(
        num_images=num_images,
        seed=seed,
        label=label,
        sampler=sampler,
        num_steps=num_steps,
        guidance=guidance,
        adaptive_threshold=adaptive_threshold,
    )
    root = root_or_none()
    sample_to_folder(resolve_model(model, root), request, out)
    if root is not None:
        remember(root, out)
    typer.echo(f"{num_images} images in {out}")


def show_tree(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="models:/vivero@champion, or a bundle folder.")
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out", callback=writable_folder, help="Folder for the pictures and tree.json."
        ),
    ],
    images: Annotated[
        int, typer.Option("--images", min=2, help="Held-out images that it is measured on.")
    ] = 256,
    seed: Annotated[int, typer.Option(min=0, help="Of the noise.")] = 0,
) -> None:
    """Draw how a trained tree works: its bands, branches and fusion, and images on their way.

    Writes bands.png, branches.png, fusion.png, denoising.png, descent.png, and tree.json with the
    figures, which docs/tree-diffusion.md explains. Needs the images of the stage prepare_data.

    Example: vivero show-tree models:/vivero@champion --out work/tree
    """
    from vivero.cli.showing_tree import show_tree as show

    show(model, images, seed, out)


def promote(
    version: Annotated[
        str | None,
        typer.Argument(metavar="[VERSION]", help="Number; without it the stage promote is run."),
    ] = None,
    name: Name = None,
    expect_champion: Annotated[
        str,
        typer.Option(help="Refuse unless this version is champion now; 'none' = nobody."),
    ] = "any",
    reason: Annotated[str, typer.Option(help="Kept in the record.")] = "by hand",
    force: Annotated[
        bool, typer.Option("--force", help="Also a version whose signed verdict does not allow it.")
    ] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Judge, and show every gate; promote nothing.")
    ] = False,
) -> None:
    """Make a version the champion, after it made images in a clean process.

    Without VERSION it acts on the verdict of `vivero judge`, as `vivero run` does.

    Example: vivero promote 3 --expect-champion 2 --reason "fewer blurred bags"
    """
    if explain:
        from vivero.cli.gates import explain as explain_verdict

        raise typer.Exit(explain_verdict())
    if version is None:
        from vivero.cli.running import run_one_stage

        raise typer.Exit(run_one_stage("promote", outside_dvc=True, force=False))
    if not version.isdecimal():
        raise typer.BadParameter(f"'{version}' is no version number; `vivero models` lists them")
    root = project_dir()
    model = name or model_name(root)
    with shown_waiting(f"checking version {version} of '{model}'"):
        from vivero.config.load import load_config
        from vivero.registry.promotion import Request, promote_by_hand

        expected = None if expect_champion == "none" else expect_champion
        request = Request(model, version, expected, reason)
        event = promote_by_hand(root, request, load_config(root / PARAMS).promote, force=force)
    if event is None:
        typer.echo(f"version {version} of '{model}' is the champion already")
    else:
        kept = "" if event.former is None else f"; version {event.former} is kept as previous"
        typer.echo(f"version {version} of '{model}' is champion now{kept}")
        _measure(root, model)


def _measure(root: Path, model: str) -> None:
    """After a promotion by hand; only the registered model that params.yaml names."""
    from vivero.config.load import load_config
    from vivero.stages.measure_champion import measure_after_promotion

    config = load_config(root / PARAMS)
    if config.promote.measure_champion and model == config.registration.model_name:
        measure_after_promotion(config, root)


def measure_champion() -> None:
    """Measure the champion on fresh images, and keep the signed report with its version.

    The value that a candidate won by is too good in the mean. `vivero promote` does this by itself
    (promote.measure_champion) where the artifacts are; a second time it changes nothing.

    Example: vivero measure-champion
    """
    from vivero.cli.running import run_one_stage

    raise typer.Exit(run_one_stage("measure_champion", outside_dvc=True, force=False))


def rollback(
    name: Name = None,
    expect_champion: Annotated[
        str,
        typer.Option(help="Take back this version, once; refuse if another is champion now."),
    ] = "any",
    reason: Annotated[str, typer.Option(help="Kept in the record.")] = "by hand",
) -> None:
    """Give the alias champion back to the previous champion.

    Without --expect-champion a second rollback undoes the first.

    Example: vivero rollback --expect-champion 7 --reason "complaints about shoes"
    """
    root = project_dir()
    model = name or model_name(root)
    with shown_waiting(f"checking the previous champion of '{model}'"):
        from vivero.registry.promotion import rollback as back

        event = back(root, model, reason, expect_champion)
    if event is None:
        typer.echo(f"version {expect_champion} of '{model}' was taken back already: nothing to do")
        return
    typer.echo(
        f"version {event.champion} of '{model}' is champion again; "
        f"version {event.former} is now previous"
    )
