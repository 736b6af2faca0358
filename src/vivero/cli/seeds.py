"""What `vivero seeds` does: one DVC experiment for each seed, then mean and interval over seeds.

The experiments run in copies of the repository that DVC makes and removes (`dvc exp run --temp`),
so the workspace stays as it is; what is finished comes from DVC's run cache the next time.
"""

import json
import logging
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from vivero.cli.data import ensure_data
from vivero.cli.running import child_environment
from vivero.config.load import load_config
from vivero.config.paths import PARAMS, artifacts_dir, project_dir, work_dir
from vivero.errors import ConfigError
from vivero.evaluation.intervals import CONFIDENCE
from vivero.evaluation.spread import Spread, spreads
from vivero.evaluation.spread_plot import plot_spreads
from vivero.files import write_json
from vivero.processes import run_in_group
from vivero.tracking.git import git_text

OF_THE_MACHINE = {"seconds", "images_per_s"}  # and not of the model

log = logging.getLogger(__name__)


def run_seeds(seeds: Sequence[int], name: str, stage: str, keep: bool) -> int:
    """Run all seeds; write work/seeds/NAME.json and NAME.png, and print the table.

    Args:
        seeds: Values of train.seed.
        name: Of the results, and of the experiments.
        stage: The last stage that is run; its summary holds the figures.
        keep: Whether the experiments stay.

    Returns:
        Exit code: 1 when a seed failed.

    Raises:
        ConfigError: When nothing could come of it.
    """
    root = project_dir()
    load_config(root / PARAMS)
    _refuse(root, seeds, name)
    ensure_data(root)
    found: dict[int, dict[str, Any]] = {}
    for place, seed in enumerate(seeds, start=1):
        log.info("seed %d (%d of %d)", seed, place, len(seeds))
        experiment = f"{name}-{seed}"
        _remove(root, experiment)
        if _reproduce(root, experiment, seed, stage) == 0:
            found[seed] = _summary(root, experiment, stage)
            if not keep:
                _remove(root, experiment)
    failed = [seed for seed in seeds if seed not in found]
    if len(found) > 1:
        _report(root, name, stage, found, failed)
    if failed:
        sys.stderr.write(
            f"vivero: failed: seed {', '.join(map(str, failed))}; what went wrong stands above. "
            f"Run the same command again: finished seeds are not repeated\n"
        )
    return 1 if failed else 0


def _refuse(root: Path, seeds: Sequence[int], name: str) -> None:
    """Say before any training what would make it useless."""
    if len(set(seeds)) < len(seeds) or len(seeds) < 2:
        raise ConfigError(
            "an interval over seeds needs at least two different ones; "
            "write for example: vivero seeds 0 1 2"
        )
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
        raise ConfigError(f"'{name}' is no name for experiments; use letters, digits, - and _")
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


def _summary(root: Path, experiment: str, stage: str) -> dict[str, Any]:
    import dvc.api

    path = (artifacts_dir(root, stage) / "summary.json").relative_to(root)
    return dict(json.loads(dvc.api.read(str(path), repo=str(root), rev=experiment)))


def _figures(summary: Mapping[str, Any]) -> dict[str, float]:
    """What a stage measured: fractions, not counts; and of the model, not of the machine."""
    return {
        name: value
        for name, value in summary.items()
        if isinstance(value, float) and name not in OF_THE_MACHINE
    }


def _report(
    root: Path, name: str, stage: str, found: Mapping[int, dict[str, Any]], failed: list[int]
) -> None:
    over_seeds = spreads({seed: _figures(summary) for seed, summary in found.items()})
    out_dir = work_dir(root) / "seeds"
    json_path, plot_path = out_dir / f"{name}.json", out_dir / f"{name}.png"
    write_json(
        json_path,
        {
            "name": name,
            "stage": stage,
            "seeds": list(found),
            "failed_seeds": failed,
            "confidence": CONFIDENCE,
            "figures": {figure: _as_row(spread) for figure, spread in over_seeds.items()},
        },
    )
    plot_spreads(over_seeds, plot_path)
    console = Console(width=max(100, Console().width))
    console.print(_table(over_seeds))
    console.print(
        f"All numbers in {json_path.relative_to(root)}, picture in {plot_path.relative_to(root)}",
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
