"""`make bench-usual`: our default against what a user would pick instead, for the same time.

`python -m bench.against_usual [SECONDS]` trains what is not trained yet (the usual model's runs of
bench/usual_model.py, ours in full and a quarter of the time), lets the unseen judges look at all
samples and says what is met. With `--finished` the usual runs that are missing stay missing; the
targets that need them are missed. Writes artifacts/bench/against_usual.json; the last line says
the factors; the exit code is 1 when a target is missed.

Targets hold for both judges that were taught on our data, and against the strongest of theirs:
"their default" is whichever default run comes out best; "their best" is the settings that the
search chose, at twice our parameter count and at ours, whichever comes out better; a noise bin is
won against all of their full runs, clipped to the range of images or not.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from rich.console import Console
from rich.table import Table

from bench import our_model, usual_model
from bench.contest import SECONDS, contest_environment
from bench.judging import JUDGES, judge_samples, open_real_images
from vivero.config.paths import artifacts_dir, project_dir, work_dir
from vivero.errors import DataError
from vivero.evaluation.torchvision_door import open_torchvision_door
from vivero.files import write_json
from vivero.processes import run_program, speak_of_our_own

OURS, OURS_QUARTER = "ours", "ours-quarter"
DEFAULTS, BESTS = ("default", "default-16", "docs"), ("best", "best-equal")
NOT_LARGER = ("default", "default-16", *BESTS)  # than is fair to compare in speed
ERRORS = ("mse", "mse_clipped")

Rows = dict[str, dict[str, Any]]
Targets = list[dict[str, Any]]
Found = TypeVar("Found")


def all_runs(root: Path, seconds: float, only_finished: bool) -> Rows:
    """The reports of all full runs by name: theirs, then ours; missing ones are trained."""
    commands = [] if only_finished else [["bench.usual_model", str(seconds)]]
    ours = {OURS: seconds, OURS_QUARTER: seconds / 4}
    commands += [["bench.our_model", name, str(length)] for name, length in ours.items()]
    for command in commands:
        process = [sys.executable, "-m", *command]
        subprocess.run(process, cwd=root, env=contest_environment(), check=True)
    theirs = usual_model.results(root, seconds)
    rows = {name: theirs[name] for name in (*DEFAULTS, *BESTS) if name in theirs}
    return rows | {name: undamaged(our_model.result(root, name), name) for name in ours}


def undamaged(found: Found | None, name: str) -> Found:
    """What a run left.

    Raises:
        DataError: When it is missing or damaged.
    """
    if found is None:
        raise DataError(
            f"a result of the run {name} is missing or damaged; run `make bench-usual` to compute "
            f"it again"
        )
    return found


def judged(rows: Rows, root: Path) -> Rows:
    """The reports with what the judges say of the samples as "judges", by how many they looked at.

    A distance grows as samples become fewer, so ours are judged at every number of theirs. Theirs
    come with "sampling", the kind of samples that is nearer to the real images.
    """
    images_dir = artifacts_dir(root, "prepare_data") / "images"
    real = open_real_images(images_dir, work_dir(root) / "bench" / "judges")
    counts = set()
    for name in rows.keys() - {OURS, OURS_QUARTER}:
        row, folder = rows[name], usual_model.run_folder(root, name)
        kinds = {}
        for kind in row["samplings"]:
            samples = undamaged(usual_model.samples_of(folder, kind), name)
            kinds[kind] = judge_samples(samples, real, labels_of(samples, row["run"]["is_fitted"]))
        better = min(kinds, key=lambda kind: sum(kinds[kind]["judges"][j]["fd"] for j in JUDGES))
        row |= {"sampling": {**row["samplings"][better], "kind": better}, "judges_by_kind": kinds}
        row["judges"] = {str(kinds[better]["n"]): kinds[better]}
        counts.add(kinds[better]["n"])
    for name in (OURS, OURS_QUARTER):
        samples = undamaged(our_model.samples(root, name), name)
        rows[name]["judges"] = {
            str(n): judge_samples(samples[:n], real, labels_of(samples[:n], True))
            for n in sorted(counts | {len(samples)})
        }
    return rows


def labels_of(samples: np.ndarray, has_labels: bool) -> np.ndarray | None:
    """The classes that samples were asked for, which come in turn; None without."""
    return np.arange(len(samples)) % usual_model.NUM_CLASSES if has_labels else None


def verdicts(row: dict[str, Any], num_images: int | None = None) -> dict[str, dict[str, Any]]:
    """What each judge says of a run's samples: of so many of them, or of all."""
    wanted = row["sampling"]["num_images"] if num_images is None else num_images
    found: dict[str, dict[str, Any]] = row["judges"][str(wanted)]["judges"]
    return found


def targets(rows: Rows) -> Targets:
    """Each target with its factor, the limit of it and whether it is met.

    Keys: name; factor, None where a run is missing; limit; is_met; is_at_most, whether the limit
    is the most that the factor may be, or the least.
    """
    theirs = {name: row for name, row in rows.items() if name not in (OURS, OURS_QUARTER)}
    defaults = [row for name, row in theirs.items() if name in DEFAULTS]
    bests = [row for name, row in theirs.items() if name in BESTS]
    small = [row for name, row in theirs.items() if name in NOT_LARGER]
    ours = rows[OURS]
    quarter = distance_factor(rows[OURS_QUARTER], bests)
    at_most = {
        "FD over their default's": (distance_factor(ours, defaults), 0.1),
        "FD over their best's": (
            distance_factor(ours, bests),
            0.5,
        ),
        "held-out loss over theirs, worst noise bin": (loss_factor(ours, theirs.values()), 1.0),
        "FD after a quarter of the time over their best's after all of it": (quarter, 1.0),
    }
    at_most["FD in the features of the unseen classifiers, the larger of two"] = (
        max(verdicts(ours)[judge]["fd"] for judge in JUDGES),
        0.5,
    )
    at_least = {
        "sampling images/s over theirs": (speed_factor(ours, small, "sampling"), 10.0),
        "training images/s over theirs": (speed_factor(ours, small, "used"), 3.0),
    }
    return [target(name, *one, is_at_most=True) for name, one in at_most.items()] + [
        target(name, *one, is_at_most=False) for name, one in at_least.items()
    ]


def target(name: str, factor: float | None, limit: float, *, is_at_most: bool) -> dict[str, Any]:
    """One row of targets."""
    is_met = factor is not None and (factor <= limit if is_at_most else factor >= limit)
    row = {"name": name, "factor": factor, "limit": limit}
    return {**row, "is_at_most": is_at_most, "is_met": is_met}


def distance_factor(ours: dict[str, Any], theirs: Any) -> float | None:
    """Our Frechet distance over theirs: the judge and the run of theirs that are worst for us."""
    factors = [
        verdicts(ours, row["sampling"]["num_images"])[judge]["fd"] / verdicts(row)[judge]["fd"]
        for judge in JUDGES
        for row in theirs
    ]
    return max(factors, default=None)


def loss_factor(ours: dict[str, Any], theirs: Any) -> float | None:
    """Our error over theirs: the noise bin and the run of theirs that are worst for us."""
    factors = [
        mine[error] / other[error]
        for row in theirs
        for mine, other in zip(ours["test"], row["test"], strict=True)
        for error in ERRORS
    ]
    return max(factors, default=None)


def speed_factor(ours: dict[str, Any], theirs: Any, what: str) -> float | None:
    """Our images/s over the fastest of theirs; what: "used" for training, or "sampling"."""
    speeds = [row[what]["images_per_s"] for row in theirs]
    return ours[what]["images_per_s"] / max(speeds) if speeds else None


def tables(rows: Rows, found: Targets) -> list[Table]:
    """The runs, the errors by noise level, the targets."""
    runs = Table("run", "M", "images seen", "images/s", "samples/s", "held-out loss")
    for judge in verdicts(rows[OURS]):
        runs.add_column(f"FD {judge} (floor)")
    for name, row in rows.items():
        seen, speed = row["used"]["num_images"], row["used"]["images_per_s"]
        cells = [name, f"{row['num_parameters'] / 1e6:.2f}", f"{seen:,}", f"{speed:.1f}"]
        cells += [f"{row['sampling']['images_per_s']:.1f}", f"{row['test_loss']:.4f}"]
        cells += [f"{j['fd']:.2f} ({j['fd_floor']:.2f})" for j in verdicts(row).values()]
        runs.add_row(*cells)
    errors = Table("sigma", *rows)
    for level in zip(*(row["test"] for row in rows.values()), strict=True):
        errors.add_row(f"{level[0]['sigma']:.3g}", *(f"{row['edm']:.4f}" for row in level))
    limits = Table("target", "factor", "limit", "")
    for one in found:
        factor = "not run" if one["factor"] is None else f"{one['factor']:.3f}"
        limit = f"{'at most' if one['is_at_most'] else 'at least'} {one['limit']:g}"
        limits.add_row(one["name"], factor, limit, "met" if one["is_met"] else "MISSED")
    return [runs, errors, limits]


def sentence(found: Targets) -> str:
    """The last line."""
    factors = "; ".join(
        f"{one['name']} {'not run' if one['factor'] is None else format(one['factor'], '.3f')}"
        for one in found
    )
    missed = [one["name"] for one in found if not one["is_met"]]
    return f"{factors}: " + ("missed: " + "; ".join(missed) if missed else "every target is met")


def main() -> None:
    """Run the contest and print its tables."""
    speak_of_our_own()
    open_torchvision_door()
    arguments = [argument for argument in sys.argv[1:] if argument != "--finished"]
    seconds, root = float(arguments[0]) if arguments else SECONDS, project_dir()
    rows = judged(all_runs(root, seconds, "--finished" in sys.argv), root)
    found = targets(rows)
    report = {"seconds": seconds, "runs": rows, "targets": found}
    search = usual_model.losses_of(usual_model.results(root, seconds))
    report["search"] = {name: loss for name, loss in search.items() if name not in rows}
    write_json(artifacts_dir(root, "bench") / "against_usual.json", report)
    console = Console()
    for table in tables(rows, found):
        console.print(table)
    console.print(f"held-out loss in the search: {json.dumps(report['search'])}")
    sys.stdout.write(sentence(found) + "\n")
    sys.exit(0 if all(one["is_met"] for one in found) else 1)


if __name__ == "__main__":
    run_program("bench-usual", main)
