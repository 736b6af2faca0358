"""`vivero ab ...` and `vivero simulate-ab`: champion and challenger side by side, with an end."""

import shlex
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vivero.cli.console import plain_console
from vivero.cli.model_versions import Name, model_name
from vivero.cli.targets import writable_folder
from vivero.config.paths import project_dir, work_dir

if TYPE_CHECKING:
    from vivero.registry.ab_test import AbTest, Status

UNIT_SEEDS = 2**31

app = typer.Typer(
    help="Serve champion and challenger by share, record what comes of it, stop when it is clear.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Unit = Annotated[str, typer.Argument(help="Who or what is served: a user, a session, an order.")]
Out = Annotated[
    Path, typer.Option("--out", callback=writable_folder, help="Folder for the images.")
]
NumImages = Annotated[int, typer.Option("--num-images", min=1, help="How many.")]


class Good(StrEnum):
    """The result of a unit."""

    good = "good"
    bad = "bad"


class Preferred(StrEnum):
    """Which of two a unit preferred."""

    first = "first"
    second = "second"
    tie = "tie"


class DecideBy(StrEnum):
    """What a decision rests on."""

    outcome = "outcome"
    preference = "preference"


def add_to(application: typer.Typer) -> None:
    """Add what is no part of `vivero ab`."""
    application.command()(simulate_ab)


@app.command()
def start(
    challenger: Annotated[str, typer.Option(help="Version that serves beside the champion.")],
    share: Annotated[float, typer.Option(help="Of the units that it serves, in (0, 1).")] = 0.5,
    level: Annotated[float, typer.Option(help="False alarms allowed, however often asked.")] = 0.05,
    margin: Annotated[float, typer.Option(help="Differences that do not matter.")] = 0.05,
    decide_by: Annotated[DecideBy, typer.Option(help="The other is shown only.")] = (
        DecideBy.outcome
    ),
    reason: Annotated[str, typer.Option(help="Kept in the record.")] = "by hand",
    name: Name = None,
) -> None:
    """Begin a test of a version against the champion; all that is asked is fixed now.

    Example: vivero ab start --challenger 4 --share 0.2
    """
    from vivero.errors import AbTestError
    from vivero.evaluation.sequential import SequentialTest
    from vivero.registry import ab_test

    root = project_dir()
    try:
        asked = SequentialTest(share, level, margin)
    except ValueError as error:
        raise AbTestError(str(error)) from error
    plan = ab_test.Plan(
        name or model_name(root), challenger, asked, decide_by.value, reason
    )  # fmt: skip
    test = ab_test.start(root, plan)
    typer.echo(
        f"version {test.challenger} serves {share:.0%} of the units beside champion "
        f"{test.champion}; `vivero ab sample UNIT --out FOLDER`, `vivero ab outcome UNIT good`"
    )


@app.command()
def sample(unit: Unit, out: Out, num_images: NumImages = 4, name: Name = None) -> None:
    """Make images for a unit with the model that it is assigned to, and record that it was served.

    Example: vivero ab sample ada --out work/ab/ada
    """
    from vivero.registry import ab_test

    root = project_dir()
    test = ab_test.running_test(root, name or model_name(root))
    _make(root, test, ab_test.assign(test, unit), unit, num_images, out)
    ab_test.record_exposure(root, test, unit)
    how = f"vivero ab outcome {shlex.quote(unit)} good"
    typer.echo(f"{num_images} images in {out}; record the result with: {how}")


@app.command()
def outcome(unit: Unit, result: Good, name: Name = None) -> None:
    """Record whether what a unit was served was good; the first word counts.

    Example: vivero ab outcome ada good
    """
    from vivero.registry import ab_test

    root = project_dir()
    test = ab_test.running_test(root, name or model_name(root))
    ab_test.record_outcome(root, test, unit, result is Good.good)


@app.command()
def pair(unit: Unit, out: Out, num_images: NumImages = 1, name: Name = None) -> None:
    """Make the same images with both models, in OUT/first and OUT/second, without saying whose.

    Example: vivero ab pair ada --out work/ab/ada
    """
    from vivero.registry import ab_test

    root = project_dir()
    test = ab_test.running_test(root, name or model_name(root))
    first = ab_test.first_of_pair(test, unit)
    second: ab_test.Arm = "champion" if first == "challenger" else "challenger"
    for place, arm in (("first", first), ("second", second)):
        _make(root, test, arm, unit, num_images, out / place)
    typer.echo(
        f"{out}/first, {out}/second; which is better? vivero ab prefer {shlex.quote(unit)} first"
    )


@app.command()
def prefer(unit: Unit, which: Preferred, name: Name = None) -> None:
    """Record which of a pair a unit preferred; the first word counts.

    Example: vivero ab prefer ada second
    """
    from vivero.registry import ab_test

    root = project_dir()
    test = ab_test.running_test(root, name or model_name(root))
    ab_test.record_preference(root, test, unit, which.value)


@app.command()
def status(name: Name = None) -> None:
    """Show both arms, the difference with an interval that may be looked at any time, the verdict.

    Of the test that runs or, where none does, of the last one.

    Writes work/ab/outcome.png and preference.png. Look as often as you like: the false-alarm rate
    counts all looks.

    Example: vivero ab status
    """
    from vivero.evaluation.sequential_plot import plot_course
    from vivero.registry import ab_test

    root = project_dir()
    found = ab_test.status(root, ab_test.last_test(root, name or model_name(root)))
    _print(found)
    courses = {"outcome": found.outcomes, "preference": found.preferences}
    for what, course in courses.items():
        if course.decision:
            path = work_dir(root) / "ab" / f"{what}.png"
            plot_course(
                course, found.test.sequential.margin, f"challenger better by ({what})", path
            )
            typer.echo(f"{path.relative_to(root)}")


@app.command()
def stop(name: Name = None) -> None:
    """End the test; its record and verdict stay. The champion is moved by `vivero promote` alone.

    Example: vivero ab stop
    """
    from vivero.registry import ab_test

    root = project_dir()
    test = ab_test.running_test(root, name or model_name(root))
    found = ab_test.status(root, test)
    ab_test.stop(root, test, found.decision)
    challenger, champion = shlex.quote(test.challenger), shlex.quote(test.champion)
    next_step = (
        f"; `vivero promote {challenger} --expect-champion {champion}` makes it champion"
        if found.decision == "challenger better"
        else ""
    )
    typer.echo(f"stopped ({found.decision}){next_step}")


def simulate_ab(
    runs: Annotated[int, typer.Option(min=100, help="Tests of each scenario.")] = 1000,
    outcomes: Annotated[int, typer.Option(min=100, help="After which one is given up.")] = 3000,
    level: Annotated[float, typer.Option(help="0.01, 0.05 or 0.1.")] = 0.05,
    margin: Annotated[float, typer.Option(help="Differences that do not matter.")] = 0.05,
    seed: Annotated[int, typer.Option(min=0, help="Of the coins.")] = 0,
    out: Annotated[
        Path, typer.Option("--out", callback=writable_folder, help="Folder for table and plot.")
    ] = Path("work/simulate_ab"),
) -> None:
    """Simulate A/B tests looked at after every outcome: false alarms, power, time to the end.

    Exits with 1 when equal models are told apart more often than the level allows.

    Example: vivero simulate-ab --runs 1000
    """
    from vivero.cli.simulating_ab import simulate_and_report

    raise typer.Exit(simulate_and_report(runs, outcomes, level, margin, seed, out))


def _make(root: Path, test: "AbTest", arm: str, unit: str, num_images: int, out: Path) -> None:
    """Images of an arm for a unit; the seed is the unit's, so that both arms see equal noise."""
    import hashlib

    from vivero.registry.versions import resolve_model
    from vivero.stages.sample import SampleRequest, sample_to_folder

    version = test.challenger if arm == "challenger" else test.champion
    digest = hashlib.sha256(f"{test.salt}\0seed\0{unit}".encode()).digest()
    seed = int.from_bytes(digest[:8], "big") % UNIT_SEEDS
    folder = resolve_model(f"models:/{test.model}/{version}", root)
    sample_to_folder(folder, SampleRequest(num_images=num_images, seed=seed), out)


def _print(found: "Status") -> None:
    from rich.table import Table

    test = found.test
    table = Table("arm", "version", "served", "outcomes", "good", "share good")
    for arm in ("champion", "challenger"):
        num, good = found.num_outcomes[arm], found.num_good[arm]
        table.add_row(
            arm,
            test.version_of(arm),
            str(found.num_exposed[arm]),
            str(num),
            str(good),
            f"{good / num:.3f}" if num else "",
        )
    console = plain_console()
    console.print(table)
    verdicts = Table("measure", "n", "challenger better by", "interval at all times", "says")
    for what, course in (("outcome", found.outcomes), ("preference", found.preferences)):
        if not course.decision:
            verdicts.add_row(what, "0", "", "", "")
            continue
        decides = "" if what == test.decide_by else " (decides nothing)"
        verdicts.add_row(
            what,
            str(len(course.decision)),
            f"{course.estimate[-1]:+.3f}",
            f"{course.low[-1]:+.3f} to {course.high[-1]:+.3f}",
            course.decision[-1] + decides,
        )
    console.print(verdicts)
    if test.stopped_at is not None:
        typer.echo(f"{test.verdict}: stopped at {test.stopped_at}")
        return
    if found.champion_now != test.champion:
        typer.echo(
            f"the champion is {found.champion_now or 'nobody'} now, no longer {test.champion}: "
            f"this test says nothing of it; `vivero ab stop`"
        )
    advice = "continue" if found.decision == "continue" else "`vivero ab stop`"
    typer.echo(f"{found.decision}: {advice}")
