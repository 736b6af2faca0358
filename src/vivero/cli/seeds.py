"""What `vivero seeds` does: one DVC experiment for each seed, then mean and interval over seeds.

The experiments run in copies of the repository that DVC makes and removes (`dvc exp run --temp`),
so the workspace stays as it is; what is finished comes from DVC's run cache the next time. The
results are kept by name (`seed_runs.py`): seeds of several commands, also from other clones, count
together. After the stage evaluate the variance between seeds goes to seed_variance.json.
"""

import logging
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from vivero.cli.console import plain_console
from vivero.cli.data import ensure_data
from vivero.cli.running import child_environment
from vivero.cli.seed_runs import SeedRun, finished_runs, runs_dir, take_run
from vivero.config.load import load_config
from vivero.config.paths import PARAMS, SEED_VARIANCE, project_dir, work_dir
from vivero.errors import ConfigError
from vivero.evaluation.intervals import CONFIDENCE
from vivero.evaluation.spread import Spread, spreads
from vivero.evaluation.spread_plot import plot_spreads
from vivero.files import write_json
from vivero.processes import run_in_group
from vivero.registry.differences import DISTANCES
from vivero.registry.seed_variance import (
    measure_seed_variance,
    merge_seed_variance,
    read_seed_variance,
    recipe_of,
    write_seed_variance,
)
from vivero.tracking.git import git_text

ENOUGH_SEEDS = 5
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wish:
    """The arguments of `vivero seeds`.

    Attributes:
        seeds: Values of train.seed.
        name: Of the results, and of the experiments.
        stage: The last stage that is run; its summary holds the metrics.
        keep: Whether the experiments stay.
        source: A clone whose kept experiments are taken; None trains here.
    """

    seeds: Sequence[int]
    name: str
    stage: str
    keep: bool = False
    source: Path | None = None


def run_seeds(wish: Wish) -> int:
    """Run or take all seeds; write the results of all seeds of this name, and print the table.

    Writes work/seeds/NAME.json and NAME.png; after evaluate also seed_variance.json.

    Returns:
        Exit code: 1 when a seed failed.

    Raises:
        ConfigError: When the request cannot give a result.
        DataError: When the other clone lacks an experiment.
    """
    root = project_dir()
    config = load_config(root / PARAMS)
    _refuse(root, wish)
    failed = _train_all(root, wish) if wish.source is None else _take_all(root, wish, wish.source)
    done = [seed for seed in wish.seeds if seed not in failed]
    found = finished_runs(root, wish.name)
    if done:
        newest = found[done[-1]]
        same = {seed: run for seed, run in found.items() if run.conditions == newest.conditions}
        others = sorted(set(found) - set(same))
        if others:
            log.warning(
                "left out: seed %s of another recipe, protocol or stage in %s",
                ", ".join(map(str, others)),
                runs_dir(root, wish.name).relative_to(root),
            )
        if newest.recipe_sha256 != recipe_of(config):
            log.warning("these trainings have other settings than %s here", PARAMS)
        if len(same) > 1:
            _report(root, wish, same, failed)
    if failed:
        sys.stderr.write(
            f"vivero: failed: seed {', '.join(map(str, failed))}; the errors are above. "
            f"Run the same command again: finished seeds are not repeated\n"
        )
    return 1 if failed else 0


def _train_all(root: Path, wish: Wish) -> list[int]:
    """Train every seed; returns those that failed."""
    ensure_data(root)
    failed = []
    for place, seed in enumerate(wish.seeds, start=1):
        log.info("seed %d (%d of %d)", seed, place, len(wish.seeds))
        experiment = f"{wish.name}-{seed}"
        _remove(root, experiment)
        if _reproduce(root, experiment, seed, wish.stage) == 0:
            take_run(root, root, wish.name, seed, wish.stage)
            if not wish.keep:
                _remove(root, experiment)
        else:
            failed.append(seed)
    return failed


def _take_all(root: Path, wish: Wish, source: Path) -> list[int]:
    """Take every seed from another clone; none fails without an error."""
    for seed in wish.seeds:
        run = take_run(source.resolve(), root, wish.name, seed, wish.stage)
        log.info("seed %d taken from %s: %d metrics", seed, source, len(run.figures))
    return []


def _refuse(root: Path, wish: Wish) -> None:
    """Say before any training what would make it useless."""
    seeds, name = wish.seeds, wish.name
    former = set() if not NAME.fullmatch(name) else set(finished_runs(root, name))
    if len(set(seeds)) < len(seeds) or len(former | set(seeds)) < 2:
        raise ConfigError(
            "an interval over seeds needs at least two different ones; "
            "write for example: vivero seeds 0 1 2"
        )
    if not NAME.fullmatch(name):
        raise ConfigError(f"'{name}' is no name for experiments; use a to z, digits, - and _")
    if git_text(root, "rev-parse", "--verify", "HEAD") is None:
        raise ConfigError(
            "DVC's experiments need a git repository with a commit; run `git init`, "
            "`git add --all` and `git commit` first"
        )
    command = ("ls-files", "--others", "--exclude-standard", "--", "src")
    untracked = (git_text(root, *command) or "").splitlines()
    if untracked:
        raise ConfigError(
            f"git does not know {', '.join(untracked)}, so an experiment would run without; "
            f"run `git add src` first"
        )


def _reproduce(root: Path, experiment: str, seed: int, stage: str) -> int:
    """Run one seed in a copy of the repository; DVC removes the copy, on Ctrl-C too."""
    command = [
        *(sys.executable, "-m", "dvc", "exp", "run", "--temp", "--name", experiment),
        *("--set-param", f"train.seed={seed}", stage),
    ]
    return run_in_group(command, root, child_environment(root), stop_signal=signal.SIGINT)


def _remove(root: Path, experiment: str) -> None:
    """Forget an experiment, if there is one; its results stay in DVC's cache."""
    command = [sys.executable, "-m", "dvc", "exp", "remove", "--quiet", experiment]
    subprocess.run(command, cwd=root, capture_output=True, check=False)


def _report(root: Path, wish: Wish, runs: Mapping[int, SeedRun], failed: list[int]) -> None:
    name = wish.name
    over_seeds = spreads({seed: run.figures for seed, run in runs.items()})
    out_dir = work_dir(root) / "seeds"
    json_path, plot_path = out_dir / f"{name}.json", out_dir / f"{name}.png"
    write_json(
        json_path,
        {
            "name": name,
            "stage": wish.stage,
            "seeds": list(runs),
            "failed_seeds": failed,
            "confidence": CONFIDENCE,
            "figures": {figure: _as_row(spread) for figure, spread in over_seeds.items()},
        },
    )
    plot_spreads(over_seeds, plot_path)
    console = plain_console()
    console.print(_table(over_seeds))
    console.print(
        f"All numbers in {json_path.relative_to(root)}, picture in {plot_path.relative_to(root)}",
        highlight=False,
        soft_wrap=True,
    )
    if wish.stage == "evaluate":
        _store(root, wish, runs, console)


def _store(root: Path, wish: Wish, runs: Mapping[int, SeedRun], console: Console) -> None:
    """Write seed_variance.json, and say so."""
    recipe = next(iter(runs.values())).recipe_sha256
    new = measure_seed_variance(wish.name, recipe, {seed: run.report for seed, run in runs.items()})
    measured = merge_seed_variance(new, read_seed_variance(root))
    write_seed_variance(root, measured)
    primary = [name for name in sorted(measured.metrics) if name.startswith(DISTANCES)]
    told = "".join(
        f": {name} varies by {measured.metrics[name].spread.relative_std:.2%} between seeds"
        for name in primary
    )
    console.print(
        f"The variance between {len(measured.weights_sha256)} seeds is in {SEED_VARIANCE}{told}.\n"
        f"`vivero judge` counts it in the error of every gain. Commit it with the recipe: "
        f"git add {SEED_VARIANCE} && git commit",
        highlight=False,
        soft_wrap=True,
    )
    if len(measured.weights_sha256) < ENOUGH_SEEDS:
        console.print(
            f"With fewer than {ENOUGH_SEEDS} seeds the spread is hardly known, and only very large "
            f"gains promote: run the same command with more seeds; they are added",
            highlight=False,
            soft_wrap=True,
        )


def _as_row(spread: Spread) -> dict[str, Any]:
    return {
        "mean": asdict(spread.mean),
        "half_width": spread.half_width,
        "std": spread.std,
        "values": spread.values,
    }


def _table(over_seeds: Mapping[str, Spread]) -> Table:
    seeds = list(next(iter(over_seeds.values())).values)
    table = Table("figure", "mean ± half-width", "std", "n", *(f"seed {seed}" for seed in seeds))
    table.title = f"Over {len(seeds)} seeds: mean with Student's 95 % interval"
    for column in table.columns[1:]:
        column.justify = "right"
    for name, spread in over_seeds.items():
        table.add_row(
            name,
            f"{spread.mean.value:.4g} ± {spread.half_width:.2g}",
            f"{spread.std:.2g}",
            str(spread.mean.n),
            *(f"{value:.4g}" for value in spread.values.values()),
        )
    return table
