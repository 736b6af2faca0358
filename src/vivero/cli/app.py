"""The commands of `vivero` and their grouping; each does its imports when it is called."""

import importlib.metadata
import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from vivero.cli import (
    ab,
    data,
    drift,
    experiments,
    gates,
    keys,
    lineage,
    model_versions,
    models,
    training,
    verify,
)
from vivero.cli.clone import refuse_foreign_clone
from vivero.config.paths import PARAMS, project_dir, root_or_none
from vivero.processes import TUNING, one_sentence_errors, start_program

DVC_STAGES = {
    "validate_data": "Decode every image and validate the data against its contract.",
    "prepare_data": "Resize, split by content, write memory-mapped arrays.",
    "compute_reference": "Features and moments of the real images.",
    "train": "",  # it has options of its own
    "sample": "",  # `vivero sample` makes images of any model; the stage is `dvc repro sample`
    "evaluate": "Judge the samples: figures with intervals and floors, plots, a page.",
}
OTHER_STAGES = {
    "check_drift": "Compare the current data with what the champion was trained on.",
    "judge": "Compare the candidate with the limits and the champion.",
    "register": "Put the candidate into the MLflow registry; the same weights only once.",
}

ASKS = {"--help", "--version", "doctor"}  # answered everywhere

app = typer.Typer(
    help="Train image diffusion models that can be trusted: data contract, exact resume, figures "
    "with error bars, promotion by statistics, lineage of every image.",
    epilog="Examples:  vivero run  |  vivero sample models:/vivero@champion --out samples "
    "--num-images 20  |  vivero data import PHOTOS --out data  |  vivero doctor",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _say_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"vivero {importlib.metadata.version('vivero')}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_say_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    pass


app.add_typer(data.app, name="data")
app.add_typer(model_versions.app, name="models")
app.add_typer(keys.app, name="keys")
app.add_typer(ab.app, name="ab")
ab.add_to(app)
models.add_to(app)
lineage.add_to(app)
experiments.add_to(app)
training.add_to(app)
drift.add_to(app)
gates.add_to(app)
verify.add_to(app)


@app.command()
def run(
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Run every stage again; a complete training is read back.",
        ),
    ] = False,
) -> None:
    """Do the whole job: data, all stages, drift, gate, registry, champion.

    Stages that are up to date are not repeated, and an interrupted training resumes.

    Example: vivero run
    """
    from vivero.cli.running import run_experiment

    raise typer.Exit(run_experiment(force=force))


@app.command()
def plan(
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show which stages must run, and why, from the lock files alone: no data, no credentials.

    Example: vivero plan --json
    """
    import json
    from dataclasses import asdict

    from vivero.cli.planning import plan_stages
    from vivero.config.load import load_config

    root = project_dir()
    load_config(root / PARAMS)  # what `vivero run` would refuse is not planned
    planned = plan_stages(root)
    if as_json:
        typer.echo(json.dumps([asdict(stage) for stage in planned]))
        return
    for stage in planned:
        typer.echo(f"{stage.name + ':':20}{'; '.join(stage.reasons)}")
    if not planned:
        typer.echo("every stage is as dvc.lock says: nothing has to run")


@app.command()
def doctor() -> None:
    """Check this machine and this clone, and show how to correct what is wrong."""
    from vivero.cli.doctor import examine

    raise typer.Exit(examine())


@app.command()
def ui(
    port: Annotated[int, typer.Option(help="Port on this machine.")] = 5000,
) -> None:
    """Look at runs, metrics and models in MLflow's pages, at http://127.0.0.1:PORT.

    Example: vivero ui --port 5001
    """
    from vivero.cli.running import serve_mlflow

    raise typer.Exit(serve_mlflow(port))


@app.command(rich_help_panel="Stages")
def train(
    force: Annotated[
        bool, typer.Option("--force", help="Run it again even if nothing changed.")
    ] = False,
    profile: Annotated[
        bool,
        typer.Option("--profile", help="Only show where the time goes; writes work/profile/."),
    ] = False,
) -> None:
    """Stage train: Train, or resume a training that was stopped.

    Example: vivero train --profile
    """
    from vivero.cli.running import profile_training, run_one_stage

    if profile:
        raise typer.Exit(profile_training())
    raise typer.Exit(run_one_stage("train", outside_dvc=False, force=force))


def _dvc_stage(stage: str) -> Callable[..., None]:
    def command(
        force: Annotated[
            bool, typer.Option("--force", help="Run it again even if nothing changed.")
        ] = False,
    ) -> None:
        from vivero.cli.running import run_one_stage

        raise typer.Exit(run_one_stage(stage, outside_dvc=False, force=force))

    return command


def _other_stage(stage: str) -> Callable[..., None]:
    def command() -> None:
        from vivero.cli.running import run_one_stage

        raise typer.Exit(run_one_stage(stage, outside_dvc=True, force=False))

    return command


def _add_stage(name: str, what: str, command: Callable[..., None]) -> None:
    text = f"Stage {name}: {what}"
    app.command(name=name.replace("_", "-"), help=text, rich_help_panel="Stages")(command)
    if "_" in name:  # as it stands in dvc.yaml
        app.command(name=name, help=text, hidden=True)(command)


for _name, _what in DVC_STAGES.items():
    if _what:
        _add_stage(_name, _what, _dvc_stage(_name))
for _name, _what in OTHER_STAGES.items():
    _add_stage(_name, _what, _other_stage(_name))


def main() -> None:
    """Entry point: one clear sentence for what we raise on purpose, no traceback."""
    start_program()
    for name, value in TUNING.items():  # what of it is read when torch is loaded
        os.environ.setdefault(name, value)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("vivero").setLevel(logging.INFO)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C
    with one_sentence_errors("vivero", "stopped by you; what was finished stays"):
        root = root_or_none()
        if root is not None and not ASKS.intersection(sys.argv):
            refuse_foreign_clone(root)
        app()


if __name__ == "__main__":
    main()
